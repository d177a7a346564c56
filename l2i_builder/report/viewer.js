(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);

  // A strip, large; arrow keys go through its gallery.
  const viewer = byId("viewer");
  let strips = [], at = 0;
  function show(index) {
    at = (index + strips.length) % strips.length;
    const image = strips[at].querySelector("img");
    byId("viewer-image").style.aspectRatio = image.style.aspectRatio;
    byId("viewer-image").src = image.src;
    byId("viewer-image").alt = image.alt;
    byId("viewer-words").replaceChildren(...strips[at].querySelector("figcaption").cloneNode(true).children);
  }
  document.addEventListener("click", (event) => {
    const button = event.target.closest("button.open");
    if (!button) return;
    strips = [...button.closest(".strips").children];
    show(strips.indexOf(button.closest(".strip")));
    viewer.showModal();
    byId("next").focus();
  });
  document.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key];
    if (step && viewer.open) show(at + step);
  });
  viewer.addEventListener("click", (event) => event.target === viewer && viewer.close());
  viewer.addEventListener("close", () => strips[at]?.querySelector("button").focus());
  byId("previous").addEventListener("click", () => show(at - 1));
  byId("next").addEventListener("click", () => show(at + 1));
  byId("close").addEventListener("click", () => viewer.close());

  // Galleries that come near the screen take their real height: go to the target again until it stays put.
  addEventListener("hashchange", () => {
    let frames = 6;
    const settle = () => {
      byId(location.hash.slice(1))?.scrollIntoView();
      if (--frames) requestAnimationFrame(settle);
    };
    settle();
  });
})();
