// What all views use: elements, requests, events, jobs.

/** Makes an element: attributes, `on…` listeners, children. Texts are texts, never markup. */
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key in element && key !== "list" && key !== "form") element[key] = value;
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat(9).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** The server cannot be reached, which the page says once. */
class Lost extends Error {}

/** Says that the server does not answer, until it does. A view that stayed empty meanwhile is drawn then. */
function reached(answers) {
  const banner = document.getElementById("lost");
  if (banner.hidden === answers) return;
  banner.hidden = answers;
  banner.textContent = `The studio does not answer. Is it still running? What is shown is from ${new Date().toLocaleTimeString("en-GB")}.`;
  if (answers && !document.getElementById("view").firstChild) dispatchEvent(new Event("hashchange"));
}

async function fetched(path, options) {
  try {
    const response = await fetch(path, options);
    reached(true);
    return response;
  } catch {
    reached(false);
    throw new Lost();
  }
}

/** Shows an error until it is read. */
export function tell(error) {
  if (error instanceof Lost) return;
  const text = error instanceof Error ? error.message : String(error);
  if ([...document.querySelectorAll("#messages span")].some((shown) => shown.textContent === text)) return;
  const message = h("p", {}, h("span", {}, text), h("button", { onclick: () => message.remove(), ariaLabel: "Close" }, "×"));
  document.getElementById("messages").append(message);
  setTimeout(() => message.remove(), 15000);
}

/** Runs what a listener does, and shows its error. */
export const doing = (work) => async (...given) => {
  try {
    return await work(...given);
  } catch (error) {
    tell(error);
  }
};

export function query(parameters) {
  const given = Object.entries(parameters).filter(([, value]) => value !== undefined && value !== null && value !== "");
  return new URLSearchParams(given).toString();
}

async function answered(response) {
  const body = await response.json().catch(() => ({}));
  if (!response.ok) throw new Error(body.error ?? `the server answered ${response.status}`);
  return body;
}

export const read = async (path, parameters = {}) => answered(await fetched(`${path}?${query(parameters)}`));

export const send = async (path, value, method = "POST") =>
  answered(await fetched(path, { method, headers: { "content-type": "application/json" }, body: JSON.stringify(value) }));

export const sendFile = async (path, file) => answered(await fetched(path, { method: "POST", body: file }));

/** Follows a stream of states. Returns a function that ends it. */
export function follow(path, each) {
  const source = new EventSource(path);
  source.onmessage = (event) => each(JSON.parse(event.data), () => source.close());
  return () => source.close();
}

export const isFinished = (job) => !["waiting", "running"].includes(job.status);

/** Asks for a job and follows it. `each` gets its states; a later call of the returned function cancels nothing. */
export async function ask(request, each) {
  const job = await send("/api/jobs", request);
  listJobs();
  return watch(job, each);
}

/** Follows a job. */
export function watch(job, each) {
  each(job);
  if (isFinished(job)) return;
  follow(`/api/jobs/${job.id}/events`, (state, close) => {
    each(state);
    if (isFinished(state)) {
      close();
      listJobs();
    }
  });
}

/** Reads a field of a number. `from` and `to` are its limits; an empty field is `undefined` where it may be. */
export function valued(name, input) {
  const [from, to] = [input.min === "" ? 0 : Number(input.min), input.max === "" ? Number.MAX_SAFE_INTEGER : Number(input.max)];
  const value = Number(input.value);
  if (input.value === "" && !input.validity.badInput && !input.required) return undefined;
  if (input.value === "" || !Number.isInteger(value) || value < from || value > to) {
    input.focus();
    throw new Error(`${name}: expected a whole number from ${from} to ${to}${input.required ? "" : ", or nothing"}`);
  }
  return value;
}

export const cancel = doing(async (id) => {
  await send(`/api/jobs/${id}`, {}, "DELETE");
  listJobs();
});

const entries = new Map();
/** An entry of the list of jobs. What changes is changed in place, so that a button keeps its focus. */
function entry(job) {
  const [status, message, error] = [h("span", { className: "quiet" }), h("div", { className: "quiet" }), h("div", { className: "error" })];
  const bar = h("progress", { ariaLabel: "Progress" });
  const stop = h("button", { onclick: () => cancel(job.id) }, "Cancel");
  const name = `${job.id}. ${job.request.kind} ${job.request.run ?? job.request.model}`;
  const element = h("div", { className: "job" }, h("div", { className: "row" }, h("strong", {}, name), status), bar, message, error, stop);
  const update = (now) => {
    status.textContent = now.status;
    message.textContent = now.message ?? "";
    error.textContent = now.error ?? "";
    bar.hidden = now.status !== "running" || !now.total;
    if (now.total) [bar.max, bar.value] = [now.total, now.done];
    stop.hidden = isFinished(now);
    stop.textContent = now.request.kind === "train" && now.status === "running" ? "Stop and save" : "Cancel";
  };
  return { element, update };
}

/** The jobs that are listed until all are asked for. */
const NEWEST = 12;
let listsAll = false;

/** Draws the list of jobs. */
export const listJobs = doing(async () => {
  const all = await read("/api/jobs");
  const jobs = listsAll ? all : all.slice(0, NEWEST);
  const place = document.getElementById("jobs");
  if (!place.firstChild) {
    const more = h("button", { className: "small", hidden: true, onclick: () => { listsAll = !listsAll; listJobs(); } });
    place.append(h("h2", {}, "Jobs"), h("p", { className: "quiet small" }, "Nothing yet. One job is done at a time."), more);
  }
  place.children[1].hidden = jobs.length > 0;
  const more = place.lastChild;
  more.hidden = all.length <= NEWEST;
  more.textContent = listsAll ? "Only the newest jobs" : `All ${all.length} jobs`;
  for (const [id, { element }] of entries) {
    if (!jobs.some((job) => job.id === id)) {
      element.remove();
      entries.delete(id);
    }
  }
  let before = place.children[1];
  for (const job of jobs) {
    if (!entries.has(job.id)) {
      entries.set(job.id, entry(job));
      before.after(entries.get(job.id).element);
    }
    entries.get(job.id).update(job);
    before = entries.get(job.id).element;
  }
});

/** A command line that can be copied. */
export function command(text) {
  const button = h("button", { type: "button", onclick: doing(async () => {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
    setTimeout(() => { button.textContent = "Copy"; }, 1500);
  }) }, "Copy");
  return h("div", { className: "command" }, h("code", {}, text), button);
}

export const number = (value, digits = 3) =>
  value === null || value === undefined ? "–" : Number(value.toPrecision(digits)).toLocaleString("en", { maximumFractionDigits: 6 });

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  if (seconds < 90) return `${Math.round(seconds)} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

export const bytes = (value) => (value < 1e6 ? `${Math.round(value / 1e3)} kB` : value < 1e9 ? `${(value / 1e6).toFixed(1)} MB` : `${(value / 1e9).toFixed(2)} GB`);

/** A slider with its value beside its name. `oninput` gets the value. */
export function slider(text, { oninput = () => {}, ...attributes }) {
  const output = h("output", {}, attributes.value);
  const input = h("input", { type: "range", ...attributes, oninput: () => {
    output.textContent = input.value;
    oninput(input.value);
  } });
  const set = (value) => { input.value = value; output.textContent = input.value; };
  return { input, set, element: h("label", {}, h("span", {}, text, " ", output), input) };
}

/** A labelled field. */
export const field = (text, input) => h("label", {}, text, input);

export const select = (options, value, onchange) => {
  const pairs = options.map((option) => (Array.isArray(option) ? option : [option, option]));
  return h("select", { onchange }, pairs.map(([key, text]) => h("option", { value: key, selected: key === value }, text)));
};

/** The colors of curves. */
export const COLORS = ["#3b7dd8", "#d9822b", "#2fa84f", "#a35bd0", "#c8434b", "#1aa3a3", "#8a7a2a", "#777777"];

/** Curves: uPlot with this page's colors. `series` are [label, values, color's number, whether faint]; a faint one has no legend. */
export function plot(place, { x, series, log, logX, xLabel, height = 260, points }) {
  const text = matchMedia("(prefers-color-scheme: dark)").matches ? "#a0a4ab" : "#5d6066";
  // Powers of ten alone have a label on a logarithmic axis.
  const power = (value) => (Number.isInteger(Math.round(Math.log10(value) * 1e6) / 1e6) ? `1e${Math.round(Math.log10(value))}` : "");
  const axis = { stroke: text, grid: { stroke: "#8883", width: 1 }, ticks: { stroke: "#8883" } };
  const chart = new uPlot({
    width: Math.max(220, place.clientWidth || 600), height,
    scales: { x: { time: false, distr: logX ? 3 : 1 }, y: { distr: log ? 3 : 1 } },
    axes: [{ ...axis, label: xLabel, labelSize: 18, size: 34 }, { ...axis, size: 62, ...(log ? { values: (_, splits) => splits.map((value) => (value === null ? "" : power(value))), grid: { show: false } } : {}) }],
    series: [{ label: xLabel ?? "x" }, ...series.map(([label, , color, faint], i) => ({
      label, stroke: COLORS[(color ?? i) % COLORS.length] + (faint ? "55" : ""), width: faint ? 1 : 1.6, spanGaps: true,
      points: { show: points ?? false }, class: faint ? "faint" : undefined,
    }))],
    cursor: { drag: { x: true, y: false } },
  }, [x, ...series.map(([, values]) => values.map((value) => (log && value !== null && value <= 0 ? null : value)))], place);
  const observer = new ResizeObserver(() => {
    if (!place.isConnected) observer.disconnect();
    else chart.setSize({ width: Math.max(220, place.clientWidth), height });
  });
  observer.observe(place);
  return chart;
}

let models;
/** The models and their descriptions, read once and again on request. */
export async function listModels(again) {
  if (!models || again) models = read("/api/models").catch((error) => { models = undefined; throw error; });
  return models;
}

/** A choice of the model; `onmodel` gets its description. */
/** A choice of a model. `onmodel` gets its description, and `null` while it is read and if it cannot be read. */
export async function modelChoice(onmodel, wanted) {
  const all = await listModels(true);
  const names = all.map(({ model, kind }) => [model, kind === "program" ? `${model} (in the program)` : model]);
  const first = all.some(({ model }) => model === wanted) ? wanted : all[0]?.model;
  let asked = null;
  const choose = doing(async (model) => {
    asked = model;
    // What is drawn is of the model that is named, or nothing is drawn.
    onmodel(null);
    const info = await read("/api/model", { model });
    if (asked !== model) return;
    localStorage.setItem("model", model);
    onmodel(info);
  });
  const input = select(names, first, () => choose(input.value));
  if (first) await choose(first);
  return field("Model", input);
}

/** A place for an image: a file that is dropped or chosen, one of the training set, or one of a job. */
export function imageChoice(model, onimage) {
  const picture = h("img", { className: "small picture", alt: "" });
  const show = doing(async (image) => {
    picture.src = `/api/image?${query({ model: model(), ...image })}`;
    // A picture does not say why it cannot be had; its address does.
    await picture.decode().catch(async () => answered(await fetched(picture.src)));
    picture.alt = "The chosen image, as the model takes it";
    onimage(image);
  });
  const upload = doing(async (file) => {
    const { upload: number } = await sendFile("/api/uploads", file);
    show({ upload: number });
  });
  const file = h("input", { type: "file", accept: "image/*", onchange: () => file.files[0] && upload(file.files[0]) });
  const index = h("input", { type: "number", min: 0, value: 0, required: true, ariaLabel: "Number in the set" });
  const drop = h("div", {
    className: "drop",
    ondragover: (event) => { event.preventDefault(); drop.classList.add("over"); },
    ondragleave: () => drop.classList.remove("over"),
    ondrop: (event) => {
      event.preventDefault();
      drop.classList.remove("over");
      if (event.dataTransfer.files[0]) upload(event.dataTransfer.files[0]);
    },
  }, "Drop an image here, or ", file);
  const element = h("div", { className: "form" }, picture, drop,
    h("div", { className: "row small" }, "or number", index, h("button", { type: "button", onclick: doing(() => show({ data: valued("Number in the set", index) })) }, "of the data")));
  return { element, show };
}
