// The two Markov chains by pictures: the forward process, noise schedules, and what a sampler computes.

import { bound } from "/bound.js";
import { doing, field, h, imageChoice, modelChoice, number, plot, query, read, select, valued } from "/page.js";

export async function understand(place, about) {
  let model = null;
  let image = { data: 0 };
  const name = () => model?.model;

  // The forward process.
  const schedule = select(about.schedules, "linear", () => forward());
  const t = h("input", { type: "range", min: 0, max: 999, value: 300, ariaLabel: "Timestep", oninput: () => forward() });
  const noisy = h("img", { className: "picture", alt: "" });
  const values = h("p", { className: "quiet" });
  const histogram = h("div", { className: "plot" });
  const choice = imageChoice(name, (chosen) => { image = chosen; forward(); });
  let asked = 0;
  const forward = doing(async () => {
    if (!model) return;
    // Only the last position of a slider that is dragged is drawn.
    const mine = (asked += 1);
    await new Promise((resolve) => { setTimeout(resolve, 60); });
    if (mine !== asked) return;
    const parameters = { model: name(), name: schedule.value, t: t.value, ...image };
    noisy.src = `/api/noised/picture?${query(parameters)}`;
    noisy.alt = `The image after ${t.value} steps of noise`;
    const drawn = await read("/api/noised", parameters);
    if (mine !== asked) return;
    values.textContent = `t = ${t.value}: √ᾱ = ${number(drawn.alpha)}, √(1−ᾱ) = ${number(drawn.sigma)}, signal-to-noise ratio ${number(drawn.snr)}`;
    histogram.replaceChildren();
    const x = drawn.histogram.map((_, i) => -3 + (6 * (i + 0.5)) / drawn.histogram.length);
    const normal = x.map((value) => (Math.exp((-value * value) / 2) / Math.sqrt(2 * Math.PI)) * (6 / x.length));
    plot(histogram, { x, series: [["pixels of x", drawn.histogram], ["Gaussian noise", normal]], xLabel: "value", height: 200 });
  });

  // Two schedules.
  const [a, b] = ["linear", "squaredcos_cap_v2"].map((first) => select(about.schedules, about.schedules.includes(first) ? first : about.schedules[0], () => compare()));
  const charts = ["β", "ᾱ", "SNR"].map((title) => ({ title, place: h("div", { className: "plot" }) }));
  const compare = doing(async () => {
    const both = await Promise.all([a, b].map((choice) => read("/api/schedule", { name: choice.value })));
    charts.forEach(({ title, place }, i) => {
      place.replaceChildren();
      const of = (curves) => [curves.beta, curves.alpha_cumprod, curves.snr][i];
      plot(place, { x: both[0].t, series: both.map((curves, k) => [`${title}: ${[a, b][k].value}`, of(curves)]), xLabel: "t", log: title === "SNR", height: 220 });
    });
  });

  // A sampler's table.
  const sampler = select(about.samplers, "ddim", () => rows());
  const steps = h("input", { type: "number", min: 1, max: 1000, value: 8, required: true, onchange: () => rows() });
  const table = h("div", { className: "scroll" });
  const rows = doing(async () => {
    if (!model) return;
    const all = await read("/api/table", { model: name(), sampler: sampler.value, steps: valued("Steps", steps) });
    const list = (numbers) => numbers.map((value) => number(value)).join(", ");
    table.replaceChildren(h("table", {}, h("tr", {}, ["t", "σ/α", "x", "x̂₀ of this row and those before", "ε̂ of this row and those before", "fresh noise"].map((text) => h("th", {}, text))),
      all.map((row) => h("tr", {}, [number(row.timestep, 4), number(row.sigma), number(row.x), list(row.sample), list(row.epsilon), number(row.noise)].map((text) => h("td", {}, text))))));
  });

  const terms = bound(name, () => image);
  const left = h("div", { className: "card form" });
  place.append(
    h("div", { className: "columns" }, left,
      h("div", { className: "card" }, h("h2", {}, "The forward process"),
        h("p", { className: "formula" }, "q(x", h("sub", {}, "t"), " | x", h("sub", {}, "0"), ") = 𝒩(√ᾱ", h("sub", {}, "t"), " x", h("sub", {}, "0"), ", (1−ᾱ", h("sub", {}, "t"), ") I)"),
        h("p", { className: "quiet small" }, "Ho et al. 2020, equation 4: noise is added in T small steps, and any of them can be drawn at once."),
        h("div", { className: "pair" }, h("figure", {}, noisy, t, values), histogram))),
    h("div", { className: "card" }, h("h2", {}, "Noise schedules"),
      h("p", { className: "formula" }, "ᾱ", h("sub", {}, "t"), " = ∏ (1−β", h("sub", {}, "s"), "),  SNR(t) = ᾱ", h("sub", {}, "t"), " / (1−ᾱ", h("sub", {}, "t"), ")"),
      h("p", { className: "quiet small" }, "Ho et al. 2020, section 2; Kingma et al. 2021, equation 2. With T = 1000."),
      h("div", { className: "row" }, field("One", a), field("Another", b)), h("div", { className: "pair" }, charts.map(({ place }) => place))),
    terms.element,
    h("div", { className: "card" }, h("h2", {}, "What a sampler computes"),
      h("p", { className: "formula" }, "x ← a x + Σ b", h("sub", {}, "k"), " x̂₀", h("sup", {}, "(k)"), " + Σ c", h("sub", {}, "k"), " ε̂", h("sup", {}, "(k)"), " + σ z"),
      h("p", { className: "quiet small" }, "Every sampler is a table: in each row, the network is evaluated once, and x becomes a sum of x, of its predictions x̂₀ and ε̂ in this row and earlier ones, and of fresh noise z. Ho et al. 2020, equations 7 and 11, for ddpm; Song et al. 2021, equation 12, for ddim."),
      h("div", { className: "row" }, field("Sampler", sampler), field("Steps", steps)), table));
  const models = await modelChoice((info) => { model = info; if (model && left.isConnected) { choice.show(image); rows(); } }, localStorage.getItem("model"));
  left.append(models, field("Schedule", schedule), h("h3", {}, "Image"), choice.element);
  if (model) choice.show(image);
  await compare();
  await rows();
  await terms.last();
}
