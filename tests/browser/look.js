// Returns what a person could not read or reach on this page, as sentences. It runs as the body of a function.
const most = 8;
const faults = new Set();
const root = document.documentElement;

const name = (element) => {
  const id = element.id ? "#" + element.id : "";
  const kind = element.classList.length ? "." + Array.from(element.classList).join(".") : "";
  const text = (element.textContent || "").trim().slice(0, 30);
  return element.tagName.toLowerCase() + id + kind + (text ? " (" + text + ")" : "");
};

// Elements that only a screen reader sees are cut to nothing.
const isSeen = (element) => {
  if (!element.checkVisibility()) return false;
  for (let at = element; at; at = at.parentElement) {
    if (getComputedStyle(at).clipPath !== "none" || at.classList.contains("skip")) return false;
  }
  return true;
};

// 1. Nothing stands beside the page, where it is seen by scrolling to the side only.
if (document.scrollingElement.scrollWidth > root.clientWidth) {
  faults.add("the page is " + document.scrollingElement.scrollWidth + " px wide");
  for (const element of document.body.querySelectorAll("*")) {
    const right = element.getBoundingClientRect().right;
    if (isSeen(element) && right > root.clientWidth + 0.5 && faults.size < most) {
      faults.add(name(element) + " reaches to " + Math.round(right) + " px");
    }
  }
}

// 2. Text has a contrast of at least 4.5 to what is behind it.
const parts = (colour) => (colour.match(/[\d.]+/g) || []).map(Number);
const light = ([red, green, blue]) => {
  const linear = (part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4);
  return 0.2126 * linear(red) + 0.7152 * linear(green) + 0.0722 * linear(blue);
};
const behind = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parts(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] === 1) return colour;
  }
  return [255, 255, 255];
};
const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (texts.nextNode()) {
  const element = texts.currentNode.parentElement;
  if (!texts.currentNode.data.trim() || element.closest("svg, script, option") || !isSeen(element)) continue;
  const [text, back] = [light(parts(getComputedStyle(element).color)), light(behind(element))];
  const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
  if (contrast < 4.5 && faults.size < most) faults.add(name(element) + " has a contrast of " + contrast.toFixed(2));
}

// 3. Fields have labels, drawings have words, and the page has one headline.
for (const field of document.querySelectorAll("input:not([type=hidden]), select, textarea")) {
  if (!Array.from(field.labels).some((label) => label.textContent.trim())) faults.add(name(field) + " has no label");
}
for (const drawing of document.querySelectorAll("svg[role=img]")) {
  if (!drawing.getAttribute("aria-label")) faults.add("a drawing has no words");
}
if (document.querySelectorAll("h1").length !== 1) faults.add("the page has not one headline");

// 4. Words are not cut into letters: a column of a table has room for a few of them.
for (const cell of document.querySelectorAll("td, th")) {
  const box = cell.getBoundingClientRect();
  if (isSeen(cell) && box.width < 24 && cell.textContent.trim().length > 3 && faults.size < most) {
    faults.add(name(cell) + " is " + Math.round(box.width) + " px wide");
  }
}
return Array.from(faults);
