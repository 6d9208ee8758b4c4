// Images from noise: they appear while they are computed, and the way of each can be replayed.

import { ask, cancel, command, doing, field, h, isFinished, modelChoice, number, read, select, sendFile, slider, valued, watch } from "/page.js";

/** The most images whose classes are named beneath the grid; pointing at an image names its own. */
const NAMED = 16;

/** Shows a job: its images while they are made, then the whole way from noise. `onpick` gets the number of an image. */
export function trajectory({ onpick } = {}) {
  const state = h("p", { className: "quiet small", ariaLive: "polite" }, "Nothing is drawn yet.");
  const bar = h("progress", { max: 1, value: 0, hidden: true, ariaLabel: "Progress" });
  const [x, sample] = ["x", "sample"].map(() => h("img", { className: "picture", alt: "" }));
  const captions = [h("figcaption"), h("figcaption")];
  const tiles = h("div", { className: "tiles" }, sample);
  const slider = h("input", { type: "range", min: 0, max: 0, value: 0, disabled: true, ariaLabel: "Step of sampling", oninput: () => { clearInterval(timer); turn(Number(slider.value)); } });
  const play = h("button", { type: "button", disabled: true, onclick: () => replay() }, "Replay");
  const links = h("div", { className: "row small" });
  const line = h("div");
  let job = null;
  let picked = 0;
  let timer = 0;

  /** Keeps the space of the pictures before they have arrived. */
  function reserve([n, height, width]) {
    const columns = Math.ceil(Math.sqrt(n));
    const ratio = `${columns * width} / ${Math.ceil(n / columns) * height}`;
    for (const picture of [x, sample]) picture.style.aspectRatio = ratio;
  }

  function turn(i) {
    if (!job || !job.frames.length) return;
    const last = i >= job.frames.length - 1 && isFinished(job) && job.shape;
    x.src = `/api/jobs/${job.id}/frames/${Math.min(i, job.frames.length - 1)}/x`;
    sample.src = last && job.status === "done" ? `/api/jobs/${job.id}/images` : `/api/jobs/${job.id}/frames/${Math.min(i, job.frames.length - 1)}/sample`;
    const t = number(job.frames[Math.min(i, job.frames.length - 1)], 4);
    captions[0].textContent = `x after the step from t = ${t}`;
    captions[1].textContent = last ? ["the images", job.classes.slice(0, NAMED).join(", ")].filter(Boolean).join(": ") : `x̂₀, what the network makes of it`;
    x.alt = `Noisy images at timestep ${t}`;
    sample.alt = last ? "The finished images" : `Predictions of the images at timestep ${t}`;
    slider.value = i;
  }

  function replay() {
    clearInterval(timer);
    let i = 0;
    timer = setInterval(() => {
      turn(i);
      i += 1;
      if (i > Number(slider.max) || !sample.isConnected) clearInterval(timer);
    }, 110);
  }

  function mark(n) {
    tiles.querySelectorAll("button").forEach((tile) => tile.remove());
    if (!onpick || !n) return;
    const columns = Math.ceil(Math.sqrt(n));
    const rows = Math.ceil(n / columns);
    for (let i = 0; i < n; i += 1) {
      const name = [`Image ${i + 1}`, job.classes[i]].filter(Boolean).join(": ");
      const tile = h("button", { type: "button", ariaLabel: name, title: name, ariaPressed: String(i === picked), onclick: () => {
        picked = i;
        mark(n);
        onpick(job, i);
      } });
      tile.style.cssText = `left:${(100 * (i % columns)) / columns}%;top:${(100 * Math.floor(i / columns)) / rows}%;width:${100 / columns}%;height:${100 / rows}%`;
      tiles.append(tile);
    }
  }

  /** Takes a state of a job. */
  function show(now) {
    const another = job?.id !== now.id;
    const before = another ? -1 : Number(slider.max);
    const following = another || Number(slider.value) === before;
    const ended = isFinished(now) && (another || !isFinished(job));
    job = now;
    if (another) {
      picked = 0;
      clearInterval(timer);
      [x, sample].forEach((picture) => { picture.removeAttribute("src"); picture.alt = ""; });
      captions.forEach((caption) => { caption.textContent = ""; });
      mark(0);
      slider.value = slider.max = 0;
      bar.removeAttribute("value");
    }
    if (job.shape) reserve(job.shape);
    bar.hidden = isFinished(job);
    if (job.total) [bar.max, bar.value] = [job.total, job.done];
    const texts = { waiting: "waiting for the job before it", running: `${job.done} of ${job.total || "…"} evaluations`, done: `done in ${number(job.seconds)} s`, cancelled: "cancelled", failed: job.error };
    state.textContent = [texts[job.status], job.status === "done" ? job.message : null].filter(Boolean).join(": ");
    state.className = job.status === "failed" ? "error" : "quiet small";
    const last = job.frames.length - 1;
    slider.max = Math.max(0, last);
    slider.disabled = play.disabled = last < 1;
    if ((following && last !== before) || ended) turn(Math.max(0, last));
    if (!job.frames.length && job.status === "done") {
      x.removeAttribute("src");
      sample.src = `/api/jobs/${job.id}/images`;
      sample.alt = "The images";
    }
    if (another || ended) {
      line.replaceChildren(command(job.command));
      links.replaceChildren(isFinished(job) ? "" : h("button", { type: "button", onclick: () => cancel(job.id) }, "Cancel"),
        job.status === "done" ? h("a", { href: `/api/jobs/${job.id}/images`, download: `ddpm-${job.id}.png` }, "Download the PNG, with its parameters inside") : "");
      mark(job.status === "done" ? job.shape?.[0] : 0);
      if (job.status === "done" && onpick) onpick(job, 0);
    }
  }

  const element = h("div", {}, state, bar,
    h("div", { className: "pair" }, h("figure", {}, tiles, captions[1]), h("figure", {}, x, captions[0])),
    h("div", { className: "row" }, play, slider), links, line);
  return { element, show };
}

export async function generate(place, about, wanted) {
  const stored = wanted || localStorage.getItem("model");
  let model = null;
  const n = h("input", { type: "number", min: 1, max: 64, value: 16, required: true });
  const seed = h("input", { type: "number", min: 0, max: Number.MAX_SAFE_INTEGER, value: 0, required: true });
  const sampler = h("select");
  const steps = h("input", { type: "number", min: 1, max: 4000 });
  const grid = select([["", "of the sampler"], "log-snr", "uniform", "quadratic", "karras"], "", () => {});
  const guidance = slider("Guidance", { min: 0, max: 6, step: 0.1, value: 1 });
  const from = h("input", { type: "number", min: 0, placeholder: "0" });
  const to = h("input", { type: "number", min: 0, placeholder: "T" });
  const classes = h("select", { multiple: true, size: 5 });
  const ofGuidance = h("div", { className: "form" }, guidance.element, h("div", { className: "half" }, field("Guidance from t", from), field("Guidance to t", to)));
  const result = trajectory({ onpick: pick });
  const below = h("div");
  const results = h("div", { className: "card" }, result.element);

  const set = (info) => {
    model = info;
    main.disabled = !model;
    if (!model) return;
    sampler.replaceChildren(...select([["", `of the model: ${info.sampler}`], ...about.samplers], "", () => {}).children);
    steps.value = "";
    steps.placeholder = info.steps ?? info.sampling?.steps ?? "of the sampler";
    sampler.value = "";
    guidance.set(info.sampling?.guidance ?? 1);
    ofGuidance.hidden = !info.guides;
    classes.parentElement.hidden = !info.classes.length;
    classes.replaceChildren(...info.classes.map(({ label, name }) => h("option", { value: label }, name)));
  };
  const request = () => {
    const chosen = [...classes.selectedOptions].map((option) => Number(option.value));
    const all = { kind: "generate", model: model.model, n: valued("Images", n), seed: valued("Seed", seed), sampler: sampler.value || undefined,
      steps: valued("Steps", steps), grid: grid.value || undefined, classes: chosen.length ? chosen : undefined };
    if (model.guides) {
      all.guidance = Number(guidance.input.value);
      if (from.value !== "" || to.value !== "") all.guidance_interval = [valued("Guidance from t", from) ?? 0, valued("Guidance to t", to) ?? model.timesteps];
    }
    return all;
  };
  const start = doing(async (event) => {
    event?.preventDefault();
    below.replaceChildren();
    await ask(request(), result.show);
  });

  /** Offers what can be done with an image of the result. */
  function pick(job, i) {
    if (job.request.kind !== "generate" || !model) return;
    const t = slider("Noise it to t =", { min: 0, max: model.timesteps - 1, value: Math.round(model.timesteps * 0.6) });
    const other = select(about.samplers, "ddim", () => {});
    const place = h("div");
    /** Adds a result, with what it is, below those before it. */
    const add = (title, element) => {
      const close = h("button", { type: "button", ariaLabel: `Remove: ${title}`, onclick: () => all.remove() }, "×");
      const all = h("section", { className: "result" }, h("div", { className: "row" }, h("h3", {}, title), close), element);
      place.append(all);
      all.scrollIntoView({ block: "nearest" });
    };
    const draw = (title, more) => doing(async () => {
      const shown = trajectory();
      add(title, shown.element);
      await ask({ ...job.request, ...more }, shown.show);
    });
    const neighbors = doing(async () => {
      const { distances, compared } = await read(`/api/jobs/${job.id}/nearest/${i}`);
      add("Nearest training images", h("figure", {}, h("img", { className: "picture", alt: "The nearest training images", src: `/api/jobs/${job.id}/nearest/${i}/picture` }),
        h("figcaption", {}, `The nearest of ${compared.toLocaleString("en")} training images, from left to right and down. Root mean squared difference of the pixels, of 255: ${distances.map((d) => number(d)).join(", ")}. A copy would have 0.`)));
    });
    const label = job.request.classes ? [job.request.classes[i % job.request.classes.length]] : model.classes.length ? [model.classes[(i + job.request.first) % model.classes.length].label] : undefined;
    below.replaceChildren(h("div", { className: "card" }, h("h2", {}, `Image ${i + 1}`),
      h("div", { className: "pair" },
        h("figure", {}, h("img", { className: "picture", alt: `Image ${i + 1}`, src: `/api/jobs/${job.id}/image/${i}` }), h("figcaption", {}, [job.classes[i], `seed ${job.request.seed}`, `number ${job.request.first + i}`].filter(Boolean).join(", "))),
        h("div", { className: "form" },
          t.element,
          h("button", { type: "button", onclick: () => draw(`Variations from t = ${t.input.value}`, { n: 9, first: 0, seed: job.request.seed + 1, classes: label, from: { job: job.id, image: i }, at: Number(t.input.value) })() }, "Nine variations from there"),
          field("The same seed with another sampler", other),
          h("button", { type: "button", onclick: () => draw(`With ${other.value}`, { sampler: other.value, grid: undefined, steps: job.request.steps })() }, "Draw beside it"),
          model.has_data && h("button", { type: "button", onclick: neighbors }, "Nearest training images"),
          h("a", { href: `#edit/${job.id}:${i}` }, "Edit this image"))), place));
  }

  const reproduce = doing(async (file) => {
    const given = await sendFile("/api/reproduce", file);
    below.replaceChildren();
    if (given.kind === "generate" && given.model === model?.model) {
      [n.value, seed.value, steps.value, sampler.value, grid.value] = [given.n, given.seed, given.steps ?? "", given.sampler ?? "", given.grid ?? ""];
      guidance.set(given.guidance ?? model.sampling?.guidance ?? 1);
      [from.value, to.value] = given.guidance_interval ?? ["", ""];
      for (const option of classes.options) option.selected = given.classes?.includes(Number(option.value)) ?? false;
    }
    await ask(given, result.show);
  });
  const file = h("input", { type: "file", accept: "image/png", ariaLabel: "PNG to reproduce", onchange: () => file.files[0] && reproduce(file.files[0]) });
  const drop = h("div", { className: "drop", ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); }, ondragleave: () => drop.classList.remove("over"),
    ondrop: (event) => { event.preventDefault(); drop.classList.remove("over"); if (event.dataTransfer.files[0]) reproduce(event.dataTransfer.files[0]); } }, "Reproduce a PNG of the studio: drop it here, or ", file);
  const ofClasses = field("Classes in turn (none: all)", classes);
  const main = h("button", { className: "main", disabled: true }, "Generate");
  const form = h("form", { onsubmit: start });
  place.append(h("div", { className: "columns" }, h("div", {}, h("div", { className: "card" }, form), drop), h("div", {}, results, below)));
  const choice = await modelChoice(set, stored);
  form.append(choice, h("div", { className: "half" }, field("Images", n), field("Seed", seed)), field("Sampler", sampler),
    h("div", { className: "half" }, field("Steps", steps), field("Grid of timesteps", grid)), ofGuidance, ofClasses, main);
  if (model) set(model);
  // The last generation is shown again.
  const last = (await read("/api/jobs")).find((job) => job.request.kind === "generate" && !job.request.from && job.shape);
  if (last) watch(last, result.show);
}
