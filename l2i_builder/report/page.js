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
        curve: { color: colour("kept") },
        guide: { color: colour("faint"), strokeWidth: 1 },
        whisker: { color: colour("kept"), strokeWidth: 1.2 },
        operating: { color: colour("ink") },
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

  // Wilson's 95 % interval of a share, `good` of `all`, seen in n draws.
  function interval(good, all, n = all) {
    const z = 1.96, share = Math.min(1, good / all), scale = 1 + z * z / n;
    const middle = (share + z * z / (2 * n)) / scale;
    const half = z * Math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / scale;
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

  // Precision and recall from audit labels, each with the weight of the rows it stands for; the intervals are Wilson's
  // with Kish's effective number of labels. Cells: [mask bin, inpainting bin, labels, good, w, w², w good, w² good].
  function quality(mask, inpainting) {
    const inside = [0, 0, 0, 0, 0, 0], all = [0, 0, 0, 0, 0, 0];
    for (const [i, j, ...sums] of thresholds.labels.cells) {
      sums.forEach((sum, at) => { all[at] += sum; if (i >= mask && j >= inpainting) inside[at] += sum; });
    }
    const share = (part, whole, squares) => {
      if (!whole) return null;
      const value = part / whole;
      return [value, ...interval(part, whole, whole * whole / squares)];
    };
    return {
      labels: inside[0], good: all[1],
      precision: share(inside[4], inside[2], inside[3]),
      recall: share(inside[4], all[4], all[5]),
    };
  }

  const number = (value) => Math.round(value).toLocaleString("en-US");
  const percent = (share) => `${(100 * share).toFixed(share && share < 0.01 ? 3 : 1)} %`;
  const change = (value) => (Math.round(value) > 0 ? `+${number(value)}` : `−${number(-value)}`);

  const some = (count, noun) => `${number(count)} ${noun}${count === 1 ? "" : "s"}`;
  function showQuality({ labels, good, precision, recall }) {
    const show = (id, share, of, otherwise) => {
      const detail = document.createElement("small");
      detail.textContent = share ? `${(100 * share[1]).toFixed(1)}–${(100 * share[2]).toFixed(1)} ${of}` : otherwise;
      byId(id).replaceChildren(share ? `${(100 * share[0]).toFixed(1)} % ` : "", detail);
    };
    show("would-precision", precision, `by ${some(labels, "label")}`, "no label among them");
    show("would-recall", recall, `of ${some(good, "good label")}`, "nothing is labelled good");
  }

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
    if (thresholds.labels.samples) showQuality(quality(chosen("mask"), chosen("inpainting")));
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

  follow();
  document.documentElement.dataset.ready = "yes";
})();
