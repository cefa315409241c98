// Says of a table that is wider than its place that there is more to the side, and where it ends.
function markWide(box) {
  const hidden = box.scrollWidth - box.clientWidth;
  box.classList.toggle("wide", hidden > 4);
  box.classList.toggle("more", hidden - box.scrollLeft > 4);
}

function watchWide(root) {
  const seen = new ResizeObserver((all) => { for (const one of all) markWide(one.target); });
  for (const box of root.querySelectorAll(".scroll")) {
    box.addEventListener("scroll", () => markWide(box), { passive: true });
    seen.observe(box);
    markWide(box);
  }
}

watchWide(document);
