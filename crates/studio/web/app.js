// The views, by the address after #.

import { listJobs, number, read, tell } from "/page.js";
import { runs } from "/runs.js";
import { generate } from "/generate.js";
import { edit } from "/edit.js";
import { understand } from "/understand.js";

const views = { runs, generate, edit, understand };
let leave = () => {};

async function show() {
  const [name, ...rest] = location.hash.slice(1).split("/");
  const view = views[name] ? name : "runs";
  for (const link of document.querySelectorAll("nav a")) {
    if (link.getAttribute("href") === `#${view}`) link.setAttribute("aria-current", "page");
    else link.removeAttribute("aria-current");
  }
  leave();
  leave = () => {};
  const place = document.getElementById("view");
  place.replaceChildren();
  document.title = `${view} – ddpm studio`;
  try {
    const about = await read("/api/about");
    leave = (await views[view](place, about, decodeURIComponent(rest.join("/")))) ?? (() => {});
  } catch (error) {
    tell(error);
  }
}

async function machine() {
  const { load, device } = await read("/api/about");
  const parts = [device];
  if (load.processes !== null) parts.push(`load ${number(load.processes)} of ${load.cores}`);
  if (load.memory) parts.push(`${(load.memory_used / 1e9).toFixed(1)} of ${(load.memory / 1e9).toFixed(0)} GB`);
  document.getElementById("machine").textContent = parts.join(" · ");
}

addEventListener("hashchange", show);
show();
const often = () => { if (!document.hidden) { listJobs(); machine().catch(() => {}); } };
often();
setInterval(often, 2500);
