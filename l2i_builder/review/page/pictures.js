// The layers of a sample as bitmaps, fetched ahead, so that showing one is a matter of drawing.

const KEEP = 24; // samples whose bitmaps stay in memory: about 4 MB each at 512 pixels
const TILE = 16; // pixels of the checkerboard behind a cut-out

const known = new Map(); // key -> promise of layers
const loaded = new Map(); // key -> layers

async function bitmap(key, layer) {
  const answer = await fetch(`/image/${encodeURIComponent(key)}/${layer}`);
  if (!answer.ok) {
    const told = await answer.json().catch(() => ({}));
    throw Object.assign(new Error(told.error || `The server answered ${answer.status}.`), { status: answer.status });
  }
  return createImageBitmap(await answer.blob());
}

// Returns the layers of a sample: image, mask, cutout, background (null where it was never inpainted).
export function load(item) {
  if (!known.has(item.key)) {
    const layers = (item.full ? full(item.key) : strip(item)).then((made) => {
      loaded.set(item.key, made);
      return made;
    });
    layers.catch(() => known.delete(item.key));
    known.set(item.key, layers);
    for (const key of known.keys()) {
      if (known.size <= KEEP) break;
      if (!loaded.has(key)) continue;
      for (const layer of Object.values(loaded.get(key))) layer?.close?.();
      loaded.delete(key);
      known.delete(key);
    }
  }
  return known.get(item.key);
}

// Returns the layers if they are there already.
export const ready = (item) => loaded.get(item.key);

async function full(key) {
  const [image, mask, background] = await Promise.all(["image", "mask", "background"].map((layer) => bitmap(key, layer)));
  return { image, mask, background, cutout: cutout(image, mask) };
}

// A preview has the four panels side by side.
async function strip(item) {
  const whole = await bitmap(item.key, "strip");
  const side = whole.height;
  const panels = await Promise.all([0, 1, 2, 3].map((at) => createImageBitmap(whole, at * side, 0, side, side)));
  whole.close();
  return { image: panels[0], mask: panels[1], cutout: panels[2], background: item.inpainted ? panels[3] : null };
}

// Draws the image where the mask is, on a checkerboard: C = mI + (1 - m)checkerboard.
function cutout(image, mask) {
  const { width, height } = image;
  const canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(mask, 0, 0, width, height);
  const m = context.getImageData(0, 0, width, height).data;
  context.drawImage(image, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const rgb = pixels.data;
  for (let y = 0, at = 0; y < height; y++) {
    for (let x = 0; x < width; x++, at += 4) {
      const share = m[at] / 255, ground = (Math.floor(x / TILE) + Math.floor(y / TILE)) % 2 ? 204 : 238;
      for (let c = at; c < at + 3; c++) rgb[c] = ground + share * (rgb[c] - ground);
    }
  }
  context.putImageData(pixels, 0, 0);
  return canvas.transferToImageBitmap();
}
