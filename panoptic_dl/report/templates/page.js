"use strict";
// Gallery: what a run's picture shows, and the button that copies a command. The page reads well without.
const kinds = ["prediction", "truth", "image"];
const toolbar = document.querySelector(".toolbar");
const tiles = [...document.querySelectorAll(".tile")];

function show(tile, kind) {
  const picture = tile.querySelector("img");
  tile.prediction ??= picture.src;
  // The page holds each image and truth once: a tile borrows them.
  const lent = tile.closest(".example").querySelector(`img[data-kind="${kind}"]`);
  if (kind !== "prediction" && !lent) return;
  picture.src = kind === "prediction" ? tile.prediction : lent.src;
  tile.dataset.shows = kind;
  tile.querySelector(".badge").textContent = kind;
  tile.setAttribute("aria-label", `${tile.dataset.run}: ${kind} of ${tile.dataset.name}`);
}

function showAll(kind) {
  for (const tile of tiles) show(tile, kind);
  for (const button of toolbar.querySelectorAll("button")) {
    button.setAttribute("aria-pressed", String(button.dataset.show === kind));
  }
  document.getElementById("shown").textContent = `The pictures of runs show the ${kind}.`;
}

function following(kind, step) {
  return kinds[(kinds.indexOf(kind) + step + kinds.length) % kinds.length];
}

if (toolbar) {
  toolbar.addEventListener("click", (event) => {
    const kind = event.target.closest("button")?.dataset.show;
    if (kind) showAll(kind);
  });
  for (const tile of tiles) {
    tile.addEventListener("click", () => {
      show(tile, following(tile.dataset.shows ?? "prediction", 1));
      document.getElementById("shown").textContent = tile.getAttribute("aria-label");
    });
  }
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    const inside = event.target.closest?.(".gallery, .toolbar");
    if (!step || !inside || event.altKey || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    showAll(following(toolbar.querySelector('[aria-pressed="true"]').dataset.show, step));
  });
}

function select(node) {
  const range = document.createRange();
  range.selectNodeContents(node);
  const selection = getSelection();
  selection.removeAllRanges();
  selection.addRange(range);
}

for (const button of document.querySelectorAll(".copy")) {
  button.addEventListener("click", async () => {
    const code = button.parentElement.querySelector("code");
    let copied = false;
    try {
      await navigator.clipboard.writeText(code.textContent);
      copied = true;
    } catch { // pages of a file may be refused: the old way, else the text stays selected
      select(code);
      copied = document.execCommand("copy");
    }
    button.textContent = copied ? "Copied" : "Press Ctrl+C";
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  });
}

// A link to a run opens it.
function openTarget() {
  const target = document.getElementById(location.hash.slice(1));
  if (target instanceof HTMLDetailsElement) target.open = true;
}
addEventListener("hashchange", openTarget);
openTarget();
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details")) details.open = true;
});
