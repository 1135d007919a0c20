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

// 4. Short words of a table stand on one line, where a table has room.
const longest = root.clientWidth >= 1200 ? 12 : 0;
const range = document.createRange();
for (const cell of document.querySelectorAll("td, th")) {
  if (!isSeen(cell)) continue;
  const inside = document.createTreeWalker(cell, NodeFilter.SHOW_TEXT);
  while (inside.nextNode()) {
    const node = inside.currentNode;
    for (const word of node.data.matchAll(/\S+/g)) {
      if (word[0].length > longest || faults.size >= most) continue;
      range.setStart(node, word.index);
      range.setEnd(node, word.index + word[0].length);
      const lines = new Set(Array.from(range.getClientRects()).map((box) => Math.round(box.top)));
      if (lines.size > 1 && !node.parentElement.closest("svg")) faults.add(word[0] + " stands on " + lines.size + " lines");
    }
  }
}
return Array.from(faults);
