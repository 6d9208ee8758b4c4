// Training runs: curves while they grow, samples over the steps, configurations and their differences, checkpoints; a new run.

import { COLORS, ask, bytes, cancel, command, doing, duration, field, follow, h, isFinished, number, plot, query, read, select, send, tell, valued } from "/page.js";

const CURVES = [
  ["Loss", [["loss", (r) => r.loss]]],
  ["Loss by quarter of the chain", [0, 1, 2, 3].map((q) => [["first quarter", "second", "third", "last"][q], (r) => r.loss_q[q]])],
  ["Norm of the gradient", [["gradient norm", (r) => r.gradient_norm]]],
  ["Learning rate", [["learning rate", (r) => r.learning_rate]]],
  ["Images per second", [["images/s", (r) => r.images_per_second]]],
  ["Bits/dim of held-out images", [["bits/dim", (r) => r.held_out ?? null]]],
  ["Fréchet distance", [["Fréchet distance", (r) => r.frechet_distance ?? null]]],
];

/** An exponential moving average, which a missing value does not change. */
function smoothed(values, share) {
  let mean = null;
  return values.map((value) => {
    if (value === null || share === 0) return value;
    mean = mean === null ? value : share * mean + (1 - share) * value;
    return mean;
  });
}

export async function runs(place, about) {
  const followed = new Map();
  const chosen = new Map();
  let ended = false;
  const curves = h("div", { className: "card" });
  const details = h("div");
  const list = h("ul", { className: "runs" });
  const smooth = h("input", { type: "range", min: 0, max: 0.98, step: 0.02, value: 0, oninput: () => draw() });
  const log = h("input", { type: "checkbox", onchange: () => draw() });
  const logX = h("input", { type: "checkbox", onchange: () => draw() });
  const which = select(CURVES.map(([name], i) => [String(i), name]), "0", () => { mark(); draw(); });
  const chart = h("div", { className: "plot" });

  function draw() {
    const [, parts] = CURVES[Number(which.value)];
    const steps = [...new Set([...chosen.values()].flatMap((run) => run.records.map((r) => r.step)))].sort((a, b) => a - b);
    const share = Number(smooth.value);
    const series = [...chosen].flatMap(([name, run]) => {
      const at = new Map(run.records.map((record) => [record.step, record]));
      return parts.flatMap(([label, value], i) => {
        const values = steps.map((step) => (at.has(step) ? value(at.get(step)) : null));
        const [text, color] = [chosen.size > 1 ? `${name}: ${label}` : label, run.color * parts.length + i];
        // What was measured stays visible behind what is smoothed.
        return [...(share > 0 ? [[text, values, color, true]] : []), [text, smoothed(values, share), color]];
      });
    });
    chart.replaceChildren();
    if (!steps.length) chart.append(h("p", { className: "quiet" }, chosen.size ? "No step is logged yet." : "Choose a run."));
    else if (series.every(([, values]) => values.every((value) => value === null))) {
      chart.append(h("p", { className: "quiet" }, "These runs did not measure it: train.evaluate_every sets how often they do."));
    } else plot(chart, { x: steps, series, log: log.checked, logX: logX.checked, xLabel: "step", height: 320, points: steps.length < 40 });
  }

  let drawing = 0;
  /** Follows a run, and draws at most twice a second however fast it grows. */
  function choose(name) {
    if (chosen.has(name)) {
      followed.get(name)();
      chosen.delete(name);
      followed.delete(name);
    } else {
      // A run keeps its color while others come and go.
      const taken = [...chosen.values()].map((other) => other.color);
      const run = { records: [], details: null, color: [...taken.keys(), taken.length].find((color) => !taken.includes(color)) };
      chosen.set(name, run);
      followed.set(name, follow(`/api/run/events?${query({ run: name })}`, (event) => {
        const first = run.details === null;
        // A run that starts over, or from an earlier checkpoint, has its later steps again.
        if (event.records.length) run.records = run.records.filter((record) => record.step < event.records[0].step);
        run.records.push(...event.records);
        run.details = event.run;
        if (first || event.records.length) {
          clearTimeout(drawing);
          drawing = setTimeout(draw, first ? 0 : 200);
        }
        // The rest is drawn again only where it changes, so that a slider keeps its focus and its place.
        const state = JSON.stringify([event.run.samples.length, event.run.checkpoints, event.run.trains]);
        if (run.state !== state) show(name);
        else if (shown === name) tellState(event.run);
        run.state = state;
      }));
    }
    mark();
    draw();
    show([...chosen.keys()].at(-1));
  }

  let at = null;
  let shown = null;
  const progress = h("p");
  const values = h("p", { className: "quiet small" });
  /** Says how far a run is. */
  function tellState(run) {
    progress.className = run.trains ? "live" : "";
    const left = run.trains && run.step >= run.steps ? ", draws samples or saves" : run.trains && run.seconds_left !== null ? `, ${duration(run.seconds_left)} left` : run.trains ? "" : ", not training now";
    progress.textContent = `step ${run.step} of ${run.steps}${left}`;
    values.textContent = `loss ${number(run.loss)} · bits/dim ${number(run.held_out)} · Fréchet distance ${number(run.frechet_distance)}`;
  }

  /** Describes a run; where two are chosen, also how their configurations differ. */
  function show(name) {
    const run = chosen.get(name);
    if (!run?.details) {
      if (!chosen.size) details.replaceChildren();
      return;
    }
    const { details: about } = run;
    const samples = about.samples;
    shown = name;
    tellState(about);
    const picture = h("img", { className: "picture", alt: "" });
    const caption = h("figcaption");
    const slider = h("input", { type: "range", min: 0, max: Math.max(0, samples.length - 1), step: 1, ariaLabel: "Step of the samples", oninput: () => turn(Number(slider.value)) });
    const turn = (i) => {
      at = i;
      picture.src = `/api/run/samples?${query({ run: name, step: samples[i] })}`;
      picture.alt = `Samples of ${name} after ${samples[i]} steps`;
      caption.textContent = `step ${samples[i]}`;
    };
    const others = [...chosen].filter(([other, { details }]) => other !== name && details);
    details.replaceChildren(
      h("div", { className: "card" }, h("h2", {}, name), progress, values, orders(name, about)),
      h("div", { className: "pair" },
        h("div", { className: "card" }, h("h3", {}, "Samples while it trains"),
          samples.length ? h("figure", {}, picture, caption, slider) : h("p", { className: "quiet" }, "None yet."),
          about.checkpoints.length > 0 && h("p", {}, h("a", { href: `#generate/${encodeURIComponent(name)}` }, "Generate with this model"))),
        h("div", { className: "card scroll" }, h("h3", {}, "Checkpoints"),
          about.checkpoints.length ? h("table", {}, about.checkpoints.map((c) => h("tr", {}, h("td", {}, `step ${c.step}`), h("td", {}, c.best ? "best" : ""), h("td", { className: "number" }, bytes(c.bytes))))) : h("p", { className: "quiet" }, "None yet."))),
      ...others.map(([other, { details: theirs }]) => h("div", { className: "card scroll" }, h("h3", {}, `What differs from ${other}`), difference(about.keys, theirs.keys, name, other))),
      h("details", { className: "card" }, h("summary", {}, "Configuration"), h("pre", {}, about.config)));
    if (samples.length) {
      slider.value = at !== null && at < samples.length - 1 ? at : samples.length - 1;
      turn(Number(slider.value));
    }
  }

  let ordered = {};
  /** What can be asked of a run: commands while this studio trains it, and to continue it while nobody does. */
  function orders(name, run) {
    if (ordered.run === name && ordered.trains === run.trains && ordered.checkpoints === run.checkpoints.length) return ordered.place;
    const place = h("div");
    ordered = { run: name, trains: run.trains, checkpoints: run.checkpoints.length, place };
    const say = (id, text) => h("button", { type: "button", onclick: doing(() => send(`/api/jobs/${id}/command`, { command: text })) }, `${text} now`);
    const fill = doing(async () => {
      const job = (await read("/api/jobs")).find((one) => one.request.kind === "train" && one.request.run === name && !isFinished(one));
      if (job) {
        place.replaceChildren(h("div", { className: "row" }, h("button", { type: "button", onclick: () => cancel(job.id) }, "Stop and save"), say(job.id, "Save"), say(job.id, "Sample")), command(job.command));
        return;
      }
      if (run.trains) return;
      const steps = h("input", { type: "number", min: run.step + 1, value: Math.max(run.steps, run.step + 1), required: true });
      const state = h("p", { className: "quiet small", role: "status" });
      const go = h("button", { type: "button", onclick: doing(async () => {
        const asked = valued("Steps in all", steps);
        await ask({ kind: "train", run: name, resume: true, set: asked === run.steps ? [] : [`train.steps=${asked}`] }, (now) => {
          state.textContent = now.error ?? now.message ?? now.status;
          state.className = now.error ? "error" : "quiet small";
          go.disabled = !isFinished(now);
        });
      }) }, "Continue");
      place.replaceChildren(h("div", { className: "row" }, h("label", { className: "line" }, "to step", steps), go, h("span", { className: "quiet small" }, run.checkpoints.length ? "with its own configuration" : "There is no checkpoint: it starts over from step 0.")), state);
    });
    fill();
    return place;
  }

  function difference(keys, theirs, name, other) {
    const [a, b] = [new Map(keys), new Map(theirs)];
    const all = [...new Set([...a.keys(), ...b.keys()])].filter((key) => a.get(key) !== b.get(key));
    if (!all.length) return h("p", { className: "quiet" }, "Nothing: the configurations are equal.");
    return h("table", {}, h("tr", {}, h("th", {}, "key"), h("th", {}, name), h("th", {}, other)),
      all.map((key) => h("tr", {}, h("td", {}, key), h("td", {}, a.get(key) ?? "–"), h("td", {}, b.get(key) ?? "–"))));
  }

  const mark = () => list.querySelectorAll("button").forEach((button) => {
    const run = chosen.get(button.dataset.run);
    button.ariaPressed = String(Boolean(run));
    button.nextSibling.style.background = run ? COLORS[(run.color * CURVES[Number(which.value)][1].length) % COLORS.length] : "";
  });
  let known = "";
  // A run that was started here, which is shown as soon as it is there.
  let begun = null;
  const refresh = async () => {
    const all = await read("/api/runs");
    const state = JSON.stringify(all.map(({ run, step, trains }) => [run, step, trains]));
    if (ended) return;
    const wanted = all.find(({ run }) => run === begun);
    if (wanted) {
      begun = null;
      if (!chosen.has(wanted.run)) {
        [...chosen.keys()].forEach(choose);
        choose(wanted.run);
      }
    }
    if (state === known) return;
    known = state;
    list.replaceChildren(...all.map((run) => {
      const button = h("button", { onclick: () => { if (chosen.size > 1 || !chosen.has(run.run)) choose(run.run); } }, run.run);
      button.dataset.run = run.run;
      return h("li", {}, button, h("i", { ariaHidden: true }), h("span", { className: `quiet small ${run.trains ? "live" : ""}` }, `${run.step} of ${run.steps}`));
    }));
    if (!all.length) list.append(h("li", { className: "quiet" }, `No run below ${about.folder} yet. Start one here, or with ddpm train.`));
    mark();
    if (all.length && !chosen.size) choose(all[0].run);
  };
  place.append(h("div", { className: "columns" },
    h("div", {}, h("div", { className: "card" }, h("h2", {}, "Runs"), list), newRun(about, (run) => { begun = run; })),
    h("div", {}, curves, details)));
  curves.append(h("div", { className: "row" }, which, h("label", { className: "line" }, log, "log y"), h("label", { className: "line" }, logX, "log x"),
    h("label", { className: "line" }, "smooth", smooth), h("span", { className: "quiet small" }, "drag to zoom, double-click to reset")), chart);
  draw();
  await refresh();
  const timer = setInterval(() => refresh().catch(() => {}), 2000);
  return () => {
    ended = true;
    clearInterval(timer);
    followed.forEach((end) => end());
  };
}

/** The form of a new run. */
function newRun(about, started) {
  const name = h("input", { required: true, value: "runs/studio", spellcheck: false });
  const presets = [["", "default, fitted to the images"], ...about.presets.map(({ name, images, found }) => [name, images && !found ? `${name} (of images in ${images})` : name])];
  const preset = select(presets, "", () => expect());
  const steps = h("input", { type: "number", min: 1, placeholder: "of the preset" });
  const data = h("input", { spellcheck: false });
  /** Says which images are taken where none are named. */
  const expect = () => {
    const { images, found } = about.presets.find(({ name }) => name === preset.value) ?? {};
    data.placeholder = images ?? "the clothes in the program";
    data.required = Boolean(images) && !found;
  };
  expect();
  const more = h("textarea", { rows: 3, placeholder: "train.batch_size=32\ntrain.sample_every=100", spellcheck: false });
  const state = h("div");
  const request = () => {
    const set = more.value.split("\n").map((line) => line.trim()).filter(Boolean);
    if (valued("Steps", steps) !== undefined) set.push(`train.steps=${valued("Steps", steps)}`);
    return { kind: "train", run: name.value, preset: preset.value || undefined, data: data.value || undefined, set };
  };
  let id = 0;
  const text = h("p", { ariaLive: "polite" });
  const line = h("div");
  state.append(text, line);
  const begin = doing(async (event) => {
    event.preventDefault();
    await ask(request(), (job) => {
      if (id !== job.id) line.replaceChildren(command(job.command));
      id = job.id;
      text.textContent = job.error ?? job.message ?? job.status;
      text.className = job.error ? "error" : "quiet small";
    });
    started(request().run);
  });
  return h("details", { className: "card", open: true }, h("summary", {}, "New run"),
    h("form", { onsubmit: begin }, field("Folder, below the studio's", name), field("Preset", preset), field("Steps", steps),
      field("Images: a folder or an archive below the studio's folder", data), field("Other keys, one in each line", more), h("button", { className: "main" }, "Train"), state));
}
