// Editing: fill in what is painted over, image-to-image, mixtures of two images, and an image's noise.

import { ask, doing, field, h, imageChoice, modelChoice, number, query, select, sendFile, slider, valued } from "/page.js";
import { trajectory } from "/generate.js";

export async function edit(place, about, wanted) {
  let model = null;
  let image = null;
  let second = null;
  // Whether the view is complete, so that another model shows its image.
  let ready = false;
  const name = () => model?.model;
  const canvas = h("canvas", { className: "draw", tabIndex: 0, ariaLabel: "Paint on the image. Keys: arrows move, space paints." });
  const tool = select([["mask", "the mask"], ["erase", "erase the mask"], ["color", "with a color"]], "mask", () => { color.hidden = tool.value !== "color"; });
  const color = h("input", { type: "color", value: "#ffffff", ariaLabel: "Color", hidden: true });
  const brush = h("input", { type: "range", min: 1, max: 12, value: 4 });
  const result = trajectory();
  const second_ = imageChoice(name, (chosen) => { second = chosen; });
  const facts = h("p", { className: "quiet" });
  let mask = null;
  // The image, and whether it was drawn on since it was chosen or sent.
  let pixels = null;
  let drawn = false;
  let [at, painting] = [[0, 0], false];

  const first = imageChoice(name, (chosen) => {
    image = chosen;
    const picture = new Image();
    picture.onload = () => {
      [canvas.width, canvas.height] = [picture.width, picture.height];
      mask = new Uint8Array(picture.width * picture.height);
      pixels = h("canvas", { width: picture.width, height: picture.height });
      pixels.getContext("2d").drawImage(picture, 0, 0);
      drawn = false;
      at = [Math.floor(picture.width / 2), Math.floor(picture.height / 2)];
      paint();
    };
    picture.src = `/api/image?${query({ model: name(), ...chosen })}`;
  });

  /** Draws the image, what is painted over, and where the keyboard's brush is. */
  function paint() {
    if (!pixels) return;
    const context = canvas.getContext("2d");
    context.drawImage(pixels, 0, 0);
    const { width, height } = canvas;
    context.fillStyle = "#e8336dc0";
    for (let i = 0; i < mask.length; i += 1) if (mask[i]) context.fillRect(i % width, Math.floor(i / width), 1, 1);
    if (document.activeElement === canvas) {
      context.strokeStyle = "#1f9bff";
      context.strokeRect(Math.min(width - 1, at[0]) + 0.5, Math.min(height - 1, at[1]) + 0.5, 0.01, 0.01);
    }
  }

  /** Draws the mask as `ddpm inpaint --mask` reads it: what is white is filled in. */
  function maskPicture() {
    if (!mask) return null;
    const picture = h("canvas", { width: canvas.width, height: canvas.height });
    const context = picture.getContext("2d");
    for (let i = 0; i < mask.length; i += 1) {
      context.fillStyle = mask[i] ? "#fff" : "#000";
      context.fillRect(i % canvas.width, Math.floor(i / canvas.width), 1, 1);
    }
    return picture;
  }

  /** Saves a picture, for the command line. */
  const save = doing(async (file, picture) => {
    const blob = await new Promise((resolve) => { need(picture, "an image").toBlob(resolve, "image/png"); });
    const link = h("a", { href: URL.createObjectURL(blob), download: file });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });

  function stroke() {
    if (!mask) return;
    const radius = Number(brush.value) / 2;
    const { width, height } = canvas;
    const context = pixels.getContext("2d");
    context.fillStyle = color.value;
    const draws = tool.value === "color";
    if (model.channels === 1) {
      // As the model will see it.
      const [r, g, b] = [1, 3, 5].map((i) => parseInt(color.value.slice(i, i + 2), 16));
      const gray = Math.round(0.299 * r + 0.587 * g + 0.114 * b);
      context.fillStyle = `rgb(${gray} ${gray} ${gray})`;
    }
    drawn ||= draws;
    for (let y = 0; y < height; y += 1) {
      for (let x = 0; x < width; x += 1) {
        if ((x - at[0]) ** 2 + (y - at[1]) ** 2 > radius * radius) continue;
        if (draws) context.fillRect(x, y, 1, 1);
        else mask[y * width + x] = tool.value === "mask" ? 1 : 0;
      }
    }
    paint();
  }

  const move = (event) => {
    const box = canvas.getBoundingClientRect();
    const before = at;
    const to = [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height].map(Math.floor);
    // A fast mouse skips pixels: all on the way are painted.
    const steps = painting === "moves" ? Math.max(1, ...to.map((end, i) => Math.abs(end - before[i]))) : 1;
    for (let i = 1; i <= steps; i += 1) {
      at = to.map((end, k) => Math.round(before[k] + ((end - before[k]) * i) / steps));
      if (painting) stroke();
    }
    if (painting) painting = "moves";
  };
  canvas.addEventListener("pointerdown", (event) => { painting = true; canvas.setPointerCapture(event.pointerId); move(event); });
  canvas.addEventListener("pointermove", move);
  canvas.addEventListener("pointerup", () => { painting = false; });
  canvas.addEventListener("focus", paint);
  canvas.addEventListener("blur", paint);
  canvas.addEventListener("keydown", (event) => {
    const steps = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
    const step = steps[event.key];
    if (!step && event.key !== " ") return;
    event.preventDefault();
    if (step) at = [Math.max(0, Math.min(canvas.width - 1, at[0] + step[0])), Math.max(0, Math.min(canvas.height - 1, at[1] + step[1]))];
    if (event.key === " ") stroke();
    paint();
  });

  const [n, seed, steps, resample] = [[1, 64, 4], [0, Number.MAX_SAFE_INTEGER, 0], [1, 4000, 100], [1, 100, 1]].map(([min, max, value]) => h("input", { type: "number", min, max, value, required: true }));
  const cls = h("select");
  const [noise, mix] = [500, 500].map((value) => slider("t =", { min: 0, max: 999, value }));
  const need = (given, what) => { if (!given) throw new Error(`choose ${what} first`); return given; };
  const label = () => (cls.value === "" ? undefined : Number(cls.value));
  const run = (request) => doing(async () => {
    facts.textContent = "";
    if (drawn) {
      const file = await new Promise((resolve) => { pixels.toBlob(resolve, "image/png"); });
      image = { upload: (await sendFile("/api/uploads", file)).upload };
      drawn = false;
    }
    result.element.scrollIntoView({ block: "nearest" });
    await ask({ model: need(name(), "a model that can be read"), ...request() }, (job) => {
      result.show(job);
      const { rmse, latent_rms: rms } = job.facts;
      if (rmse) facts.textContent = `From left to right and below: the image, its noise, the image from that noise. Error of the reconstruction ${number(rmse[0])} of 255 (root mean square); root mean square of the noise ${number(rms[0])}, which is 1 for Gaussian noise.`;
    });
  });
  const inpaint = run(() => ({ kind: "inpaint", image: need(image, "an image"), mask: [...mask].join(""), n: valued("Variants", n), seed: valued("Seed", seed), steps: valued("Steps", steps), resample: valued("Times each", resample), class: label() }));
  const change = run(() => ({ kind: "generate", n: valued("Variants", n), seed: valued("Seed", seed), steps: valued("Steps", steps), from: need(image, "an image"), at: Number(noise.input.value), classes: label() === undefined ? undefined : [label()] }));
  const interpolate = run(() => ({ kind: "interpolate", ends: [need(image, "an image"), need(second, "a second image")], at: Number(mix.input.value), seed: valued("Seed", seed), steps: valued("Steps", steps), class: label() }));
  const invert = run(() => ({ kind: "invert", image: need(image, "an image"), steps: valued("Steps", steps), class: label() }));
  const button = (text, onclick, main) => h("button", { type: "button", className: main ? "main" : "", onclick }, text);

  const set = (info) => {
    model = info;
    if (!model) return;
    for (const { input } of [noise, mix]) input.max = info.timesteps - 1;
    cls.replaceChildren(h("option", { value: "" }, "none, or all"), ...info.classes.map(({ label, name }) => h("option", { value: label }, name)));
    cls.parentElement.hidden = !info.classes.length;
    if (ready && (!image || !image.job)) first.show(image ?? { data: 0 });
  };
  const ofClass = field("Class", cls);
  const left = h("div");
  const right = h("div", { className: "pair" });
  place.append(h("div", { className: "columns" }, left, right));
  const choice = await modelChoice(set, localStorage.getItem("model"));
  right.append(
    h("div", { className: "card form" }, h("h2", {}, "Fill in"), h("p", { className: "quiet small" }, "Paint over what is to be made again. Or draw on the image with a color, and press Change."), canvas,
      h("div", { className: "half" }, field("Paint", tool), field("Brush", brush)), color,
      h("div", { className: "row" }, button("Fill in", inpaint, true), button("Clear", () => { mask?.fill(0); paint(); }),
        button("Save image.png", () => save("image.png", pixels)), button("Save mask.png", () => save("mask.png", maskPicture())))),
    h("div", { className: "card stays" }, result.element, facts));
  left.append(
    h("div", { className: "card form" }, choice, h("h2", {}, "Image"), first.element),
    h("div", { className: "card form" }, h("h2", {}, "Options"), h("div", { className: "half" }, field("Variants", n), field("Seed", seed)),
      h("div", { className: "half" }, field("Steps", steps), field("Times each (RePaint)", resample)), ofClass),
    h("div", { className: "card form" }, h("h2", {}, "Change"), h("p", { className: "quiet small" }, "The image is noised to t and denoised: the higher, the less is left of it."), noise.element, button("Change", change)),
    h("div", { className: "card form" }, h("h2", {}, "Mix with another"), second_.element, mix.element, button("Mix", interpolate)),
    h("div", { className: "card form" }, h("h2", {}, "Find its noise"), h("p", { className: "quiet small" }, "DDIM backwards, and forwards again."), button("Invert", invert)));
  if (model) set(model);
  ready = true;
  if (!model) return;
  if (wanted) {
    const [job, number_] = wanted.split(":").map(Number);
    first.show({ job, image: number_ });
  } else first.show({ data: 0 });
}
