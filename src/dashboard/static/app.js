// Live updates of the overview. Without this script, the page shows the state of its load.
"use strict";

// Makes the nodes of `old` like those of `fresh`, and leaves what is equal alone, so that focus and selection stay.
function morph(old, fresh) {
  const wanted = Array.from(fresh.childNodes);
  wanted.forEach((node, at) => {
    const present = old.childNodes[at];
    if (!present) {
      old.appendChild(node.cloneNode(true));
    } else if (present.isEqualNode(node)) {
      return;
    } else if (present.nodeType === Node.TEXT_NODE && node.nodeType === Node.TEXT_NODE) {
      present.data = node.data;
    } else if (present.nodeType === Node.ELEMENT_NODE && present.nodeName === node.nodeName) {
      for (const { name } of Array.from(present.attributes)) {
        if (!node.hasAttribute(name)) present.removeAttribute(name);
      }
      for (const { name, value } of Array.from(node.attributes)) {
        if (present.getAttribute(name) !== value) present.setAttribute(name, value);
      }
      morph(present, node);
    } else {
      old.replaceChild(node.cloneNode(true), present);
    }
  });
  while (old.childNodes.length > wanted.length) old.removeChild(old.lastChild);
}

function listen() {
  const status = document.getElementById("live-status");
  const live = document.getElementById("live");
  if (!status || !live || !window.EventSource) return;
  // A screen reader would read every update; only a change of the connection is worth saying.
  const say = (text, state) => {
    if (status.dataset.state !== state) {
      status.dataset.state = state;
      status.textContent = text;
    }
  };
  let source;
  const close = () => {
    if (source) source.close();
    source = undefined;
  };
  // A browser opens few connections to one host, so a page that nobody sees keeps none.
  const open = () => {
    if (source || document.hidden) return;
    source = new EventSource(status.dataset.live);
    source.addEventListener("overview", (event) => {
      const update = JSON.parse(event.data);
      if (update.problem) {
        say("The numbers are old, because they could not be read: " + update.problem, "problem");
        return;
      }
      const fresh = new DOMParser().parseFromString(update.html, "text/html");
      morph(live, fresh.body);
      say("The page updates itself every 2 seconds.", "live");
    });
    source.addEventListener("error", (event) => {
      if (event.target.readyState === EventSource.CLOSED) {
        say("The page does not update itself any more. Load it again.", "closed");
      }
    });
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? close() : open()));
  window.addEventListener("pagehide", close);
  window.addEventListener("pageshow", open);
  open();
}

listen();
