// The variational bound of a model, term by term: the error of x̂₀ over t, and the rate–distortion curve with an image at each point.

import { ask, cancel, command, doing, field, h, isFinished, number, plot, read, valued, watch } from "/page.js";

/** A card; `model` and `image` return what is chosen. */
export function bound(model, image) {
  const n = h("input", { type: "number", min: 1, max: 64, value: 16, required: true });
  const steps = h("input", { type: "number", min: 2, max: 4000, value: 100, required: true });
  const button = h("button", { type: "button", className: "main", onclick: () => (job && !isFinished(job) ? cancel(job.id) : measure()) }, "Measure");
  const bar = h("progress", { ariaLabel: "Progress", hidden: true });
  const state = h("p", { className: "quiet small", role: "status" });
  const [errors, curve] = [h("div", { className: "plot" }), h("div", { className: "plot" })];
  const point = h("input", { type: "range", min: 0, max: 0, value: 0, disabled: true, ariaLabel: "Point of the curve", oninput: () => turn() });
  const [x, sample] = ["x at this timestep", "x̂₀ at this timestep"].map((alt) => h("img", { className: "picture", alt }));
  const says = h("p", { className: "quiet" });
  const pictures = h("div", { className: "pair" }, h("figure", {}, x, h("figcaption", {}, "x", h("sub", {}, "t"), ", which has been received")),
    h("figure", {}, sample, h("figcaption", {}, "x̂₀, what the network makes of it at once")));
  const shown = h("div", { hidden: true }, h("div", { className: "pair" }, errors, curve), point, says, pictures);
  const line = h("div");
  let job = null;
  let chart = null;

  function turn() {
    const k = Number(point.value);
    const { timestep, rate, rmse, mse } = job.facts;
    const i = timestep.indexOf(job.frames[k]);
    [x.src, sample.src] = ["x", "sample"].map((which) => `/api/jobs/${job.id}/frames/${k}/${which}`);
    says.textContent = `t = ${timestep[i]}: after ${number(rate[i])} bits/dim, the images of x̂₀ are off by ${number(rmse[i])} of 255 (root mean square), M = ${number(mse[i])}`;
    // The cursor of the curve is at the point.
    const [left, top] = [chart.valToPos(rate[i], "x"), chart.valToPos(rmse[i], "y")];
    chart.setCursor({ left, top });
  }

  function show(now) {
    const ended = isFinished(now) && (job?.id !== now.id || !isFinished(job));
    job = now;
    button.textContent = isFinished(job) ? "Measure" : "Cancel";
    bar.hidden = isFinished(job);
    if (job.total) [bar.max, bar.value] = [job.total, job.done];
    const texts = { waiting: "waiting for the job before it", running: `${job.done} of ${job.total || "…"} evaluations`, done: job.message, cancelled: "cancelled", failed: job.error };
    state.textContent = texts[job.status];
    state.className = job.status === "failed" ? "error" : "quiet small";
    line.replaceChildren(command(job.command));
    if (!ended || job.status !== "done") return;
    if (!job.frames.length) {
      state.textContent = `${job.message}; its pictures are no longer kept`;
      return;
    }
    shown.hidden = false;
    const { timestep, mse, rate, rmse, parts } = job.facts;
    state.textContent = `${job.message}: prior ${number(parts[0])}, steps ${number(parts[1])}, decoder ${number(parts[2])}`;
    errors.replaceChildren();
    curve.replaceChildren();
    plot(errors, { x: timestep.toReversed(), series: [["M, the squared error of x̂₀", mse.toReversed()]], xLabel: "t", log: true, height: 240 });
    chart = plot(curve, { x: rate, series: [["root mean squared error of x̂₀, of 255", rmse]], xLabel: "bits/dim received", height: 240 });
    point.max = job.frames.length - 1;
    point.disabled = false;
    point.value = Math.floor(job.frames.length / 2);
    turn();
  }

  const measure = doing(async () => {
    if (!model()) return;
    await ask({ kind: "bound", model: model(), n: valued("Held-out images", n), steps: valued("Steps", steps), image: image() ?? undefined }, show);
  });

  const element = h("div", { className: "card" }, h("h2", {}, "What the bits are spent on"),
    h("p", { className: "formula" }, "L = KL(q(x", h("sub", {}, "T"), "|x", h("sub", {}, "0"), ") ‖ p) + Σ KL(q(x", h("sub", {}, "t−1"), "|x", h("sub", {}, "t"), ",x", h("sub", {}, "0"), ") ‖ p(x", h("sub", {}, "t−1"), "|x", h("sub", {}, "t"), ")) − log p(x", h("sub", {}, "0"), "|x", h("sub", {}, "1"), "),  M", h("sub", {}, "t"), " = E‖x", h("sub", {}, "0"), " − x̂₀(x", h("sub", {}, "t"), ")‖² / D"),
    h("p", { className: "quiet small" }, "Ho et al. 2020, equation 5, and section 4.3 with figure 5: who receives x", h("sub", {}, "t"), " step by step can show x̂₀ at any time. The sum of the steps so far is the rate, the error of x̂₀ the distortion. M", h("sub", {}, "t"), " gives each step's cost (Watson et al. 2021). Measured on held-out images; the pictures are of the image chosen above."),
    h("div", { className: "row" }, field("Held-out images", n), field("Steps", steps), button), bar, state, shown, line);
  /** Shows the last measurement of the model again. */
  const last = async () => {
    const found = (await read("/api/jobs")).find((one) => one.request.kind === "bound" && one.request.model === model() && ["done", "running", "waiting"].includes(one.status));
    if (found) watch(found, show);
  };
  return { element, last };
}
