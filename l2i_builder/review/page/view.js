// The five frames: original, mask, cut-out, background, and the onion skin of two of them. Zoom and position are shared.

const LEVELS = [1, 2, 4];
const byId = (id) => document.getElementById(id);
const frames = [...document.querySelectorAll("figure[data-layer]")];
const slider = byId("slider");

let layers = null;
let inpainted = true;
let pair = "background";
let zoom = 1;
let centre = [0.5, 0.5]; // of the picture, as shares of its sides

// Shows the layers of a sample; null clears the frames (the next one is still on its way).
export function show(made, item) {
  layers = made;
  inpainted = Boolean(made?.background);
  if (!inpainted && made && pair === "background") choose("cutout", false);
  else if (inpainted && preferred === "background") choose("background", false);
  slider.value = 0;
  if (zoom !== 1) look(1);
  for (const frame of frames) {
    if (frame.dataset.layer === "compare") continue;
    draw(frame.querySelector("canvas"), made?.[frame.dataset.layer]);
    frame.classList.toggle("never", Boolean(made) && frame.dataset.layer === "background" && !inpainted);
  }
  document.body.classList.toggle("small", Boolean(item) && !item.full);
  blend();
}

function draw(canvas, picture) {
  fit(canvas, picture ?? layers?.image);
  const context = canvas.getContext("2d");
  context.globalAlpha = 1;
  if (picture) context.drawImage(picture, 0, 0);
  else context.clearRect(0, 0, canvas.width, canvas.height);
}

function fit(canvas, picture) {
  const { width, height } = picture ?? { width: 512, height: 512 };
  if (canvas.width !== width || canvas.height !== height) [canvas.width, canvas.height] = [width, height];
}

// Draws the onion skin: the other layer over the image, as opaque as the slider says.
function blend() {
  const canvas = document.querySelector(".compare canvas"), share = slider.value / 100;
  draw(canvas, layers?.image);
  if (layers?.[pair] && share) {
    const context = canvas.getContext("2d");
    context.globalAlpha = share;
    context.drawImage(layers[pair], 0, 0);
  }
  const other = pair === "cutout" ? "cut-out" : "background";
  byId("pair").textContent = share === 0 ? "original" : share === 1 ? other : `original + ${Math.round(100 * share)} % ${other}`;
  byId("other").textContent = other;
  byId("swap").querySelector("span").textContent = other;
}

let preferred = "background"; // what the reviewer wants where there is a choice

function choose(name, wanted = true) {
  pair = name;
  if (wanted) preferred = name;
  blend();
}

export function swap() {
  if (inpainted) choose(pair === "background" ? "cutout" : "background");
}

export function slide(step) {
  slider.value = Number(slider.value) + step;
  blend();
}

export function flip() {
  slider.value = slider.value >= 50 ? 0 : 100;
  blend();
}

function look(level, at = [0.5, 0.5]) {
  zoom = level;
  const reach = 0.5 / zoom;
  centre = at.map((share) => Math.min(1 - reach, Math.max(reach, share)));
  for (const frame of frames) {
    const canvas = frame.querySelector("canvas");
    canvas.style.transform = zoom === 1 ? "" : `scale(${zoom}) translate(${(0.5 - centre[0]) * 100}%, ${(0.5 - centre[1]) * 100}%)`;
    canvas.classList.toggle("pixels", zoom >= 4);
  }
  byId("zoom").querySelector("span").textContent = `${zoom % 1 ? zoom.toFixed(1) : zoom}×`;
}

export function zoomOn() {
  look(LEVELS[(LEVELS.indexOf(LEVELS.findLast((level) => level <= zoom)) + 1) % LEVELS.length], centre);
}

// Where in the picture a pointer is, as shares of its sides.
function place(event, frame) {
  const box = frame.getBoundingClientRect();
  return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height].map(
    (share, axis) => centre[axis] + (share - 0.5) / zoom,
  );
}

for (const frame of document.querySelectorAll(".frame")) {
  frame.addEventListener("wheel", (event) => {
    event.preventDefault();
    const at = place(event, frame), level = Math.min(8, Math.max(1, zoom * Math.exp(-event.deltaY / 400)));
    look(level, at.map((share, axis) => share + ((centre[axis] - share) * zoom) / level)); // what is under the pointer stays
  }, { passive: false });
  frame.addEventListener("dblclick", () => look(1));
  frame.addEventListener("pointerdown", (event) => {
    if (zoom === 1 || event.button) return;
    frame.setPointerCapture(event.pointerId);
    frame.classList.add("held");
  });
  frame.addEventListener("pointermove", (event) => {
    if (!frame.hasPointerCapture(event.pointerId)) return;
    const side = frame.getBoundingClientRect().width * zoom;
    look(zoom, [centre[0] - event.movementX / side, centre[1] - event.movementY / side]);
  });
  for (const end of ["pointerup", "pointercancel"]) frame.addEventListener(end, () => frame.classList.remove("held"));
}
slider.addEventListener("input", blend);
