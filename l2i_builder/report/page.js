(() => {
  "use strict";
  const byId = (id) => document.getElementById(id);
  const { charts, thresholds } = JSON.parse(byId("data").textContent);
  const views = new Map();

  // Charts: the specifications name styles and ranges, the colours come from the style sheet.
  function theme() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(`--${name}`).trim();
    const text = { labelColor: colour("soft"), titleColor: colour("soft"), labelFontSize: 11, titleFontSize: 11.5, titleFontWeight: 400 };
    return {
      background: "transparent",
      font: getComputedStyle(document.body).fontFamily,
      padding: 2,
      autosize: { type: "fit-x", contains: "padding" },
      view: { stroke: null },
      range: {
        category: ["kept", "mask", "inpainting", "failed"].map(colour),
        heatmap: colour("heat").split(",").map((part) => part.trim()),
      },
      axis: { ...text, grid: true, gridColor: colour("line"), domain: false, tickColor: colour("line"), titlePadding: 8 },
      axisX: { grid: false, domain: true, domainColor: colour("line") },
      legend: { ...text, orient: "top", symbolType: "square", titleOrient: "left", gradientLength: 140, offset: 4, columns: innerWidth < 520 ? 2 : 4 },
      rule: { color: colour("ink") },
      style: {
        threshold: { strokeWidth: 1.5 },
        chosen: { strokeWidth: 1.5, strokeDash: [4, 3] },
      },
    };
  }

  async function draw(place) {
    const name = place.dataset.chart;
    const options = { ast: true, actions: false, renderer: "svg", config: theme(), tooltip: { disableDefaultStyle: true } };
    views.get(name)?.finalize();
    views.set(name, (await vegaEmbed(place, charts[name], options)).view);
    follow();
    place.dataset.drawn = "yes";
  }

  // Drawn when they come near the screen: the page opens without waiting for any of them.
  const near = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      near.unobserve(entry.target);
      draw(entry.target);
    }
  }, { rootMargin: "600px" });
  const places = [...document.querySelectorAll(".chart")];
  for (const place of places) near.observe(place);
  addEventListener("beforeprint", () => places.filter((place) => !views.has(place.dataset.chart)).forEach(draw));
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    places.filter((place) => views.has(place.dataset.chart)).forEach(draw);
  });

  // Thresholds: everything is counted from the two-dimensional histogram that came with the page.
  const sliders = [...document.querySelectorAll("input[data-judge]")];
  const edgesOf = (judge) => thresholds[`${judge}_edges`];
  const own = (judge) => Math.max(0, edgesOf(judge).indexOf(thresholds[judge]));
  const chosen = (judge) => {
    const slider = sliders.find((one) => one.dataset.judge === judge);
    return slider ? Number(slider.value) : own(judge);
  };

  // Wilson's 95 % interval of a share, from `good` of `all`.
  function interval(good, all) {
    const z = 1.96, share = good / all, scale = 1 + z * z / all;
    const middle = (share + z * z / (2 * all)) / scale;
    const half = z * Math.sqrt(share * (1 - share) / all + z * z / (4 * all * all)) / scale;
    return [Math.max(0, middle - half), Math.min(1, middle + half)];
  }

  // Samples kept with masks from bin `mask` up and inpaintings from bin `inpainting` up. Below the run's own mask
  // threshold only audit rows were inpainted: what the others would come to is estimated from those.
  function kept(mask, inpainting) {
    const ownMask = own("mask");
    let sure = 0, audited = 0, passed = 0, unseen = 0;
    for (const [i, j, samples] of thresholds.both) {
      if (i < mask) continue;
      if (j >= inpainting) sure += samples;
      if (i < ownMask) {
        audited += samples;
        if (j >= inpainting) passed += samples;
      }
    }
    for (let i = mask; i < ownMask; i++) unseen += thresholds.mask_only[i];
    if (!unseen) return { low: sure, about: sure, high: sure, unseen, audited };
    const [low, high] = audited ? interval(passed, audited) : [0, 1];
    const about = audited ? sure + unseen * passed / audited : null;
    return { low: sure + unseen * low, about, high: sure + unseen * high, unseen, audited };
  }

  const number = (value) => Math.round(value).toLocaleString("en-US");
  const percent = (share) => `${(100 * share).toFixed(share && share < 0.01 ? 3 : 1)} %`;
  const change = (value) => (Math.round(value) > 0 ? `+${number(value)}` : `−${number(-value)}`);

  function count() {
    const result = kept(chosen("mask"), chosen("inpainting"));
    const base = thresholds.kept, rows = thresholds.rows;
    const range = `between ${number(result.low)} and ${number(result.high)}`;
    const shown = result.about === null ? range : (result.unseen ? "about " : "") + number(result.about);
    byId("would-keep").textContent = shown;
    const middle = result.about ?? (result.low + result.high) / 2;
    const same = Math.round(middle) === base;
    byId("would-share").textContent = `${percent(middle / rows)} of input, ${same ? "as in this run" : `${change(middle - base)} against this run`}`;
    byId("would-bar").style.width = `${100 * middle / rows}%`;
    let note = "";
    if (result.unseen && result.about === null) {
      note = `${number(result.unseen)} samples below this run's mask threshold were never inpainted, and no audit row is among them to judge by. They would have to be inpainted.`;
    } else if (result.unseen) {
      note = `Estimated (${range}, 95 % confidence) from ${number(result.audited)} audit rows: ${number(result.unseen)} samples below this run's mask threshold were never inpainted and would have to be.`;
    }
    byId("would-note").textContent = note;
  }

  // Numbers and the dashed lines in the charts follow the sliders.
  function follow() {
    if (!sliders.length) return;
    for (const slider of sliders) {
      const judge = slider.dataset.judge, value = edgesOf(judge)[slider.value];
      const text = String(Number(value.toPrecision(3)));
      byId(`value-${judge}`).textContent = text;
      slider.setAttribute("aria-valuetext", text);
      for (const name of [`score_${judge}`, "density"]) views.get(name)?.signal(`chosen_${judge}`, value).runAsync();
    }
    byId("overrides").textContent = sliders.map((slider) => `judge.${slider.dataset.judge}.threshold=${edgesOf(slider.dataset.judge)[slider.value]}`).join(" ");
    count();
  }
  for (const slider of sliders) slider.addEventListener("input", follow);
  byId("reset")?.addEventListener("click", () => {
    for (const slider of sliders) slider.value = own(slider.dataset.judge);
    follow();
  });

  // A strip, large; arrow keys go through its gallery.
  const viewer = byId("viewer");
  let strips = [], at = 0;
  function show(index) {
    at = (index + strips.length) % strips.length;
    const image = strips[at].querySelector("img");
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

  // The section in view is the current one in the navigation.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const inView = new Set();
  const seen = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) inView[isIntersecting ? "add" : "delete"](target.id);
    const current = [...links.keys()].find((id) => inView.has(id));
    if (!current) return;
    for (const link of links.values()) link.removeAttribute("aria-current");
    const link = links.get(current), list = link.closest("ol");
    link.setAttribute("aria-current", "location");
    list.scrollLeft = link.offsetLeft - list.clientWidth / 2;
  }, { rootMargin: "-8% 0px -88% 0px" });
  for (const section of document.querySelectorAll("main > section")) seen.observe(section);

  // Galleries that come near the screen take their real height: go to the target again until it stays put.
  addEventListener("hashchange", () => {
    let frames = 6;
    const settle = () => {
      byId(location.hash.slice(1))?.scrollIntoView();
      if (--frames) requestAnimationFrame(settle);
    };
    settle();
  });

  follow();
  document.documentElement.dataset.ready = "yes";
})();
