// SPDX-License-Identifier: Apache-2.0
// The slider for another device, and buttons that copy. Without this the page says all the rest.
(() => {
  "use strict";
  document.documentElement.classList.add("live");
  const two = (value) => (value >= 10 ? value.toFixed(0) : value.toFixed(1));
  const time = (us) => (us >= 1e3 ? `${two(us / 1e3)} ms` : us >= 1 ? `${two(us)} µs` : `${two(us * 1e3)} ns`);

  const form = document.querySelector(".device-form");
  if (form) {
    const input = form.querySelector("input"), output = form.querySelector("output");
    const base = Number(form.dataset.kernelUs), most = Number(form.dataset.words);
    const bins = JSON.parse(form.dataset.bins);
    const pages = bins.reduce((sum, bin) => sum + bin[2], 0);
    const ways = [...document.querySelectorAll("#break-even thead th[data-page-us]")].map((head) => ({
      name: head.dataset.name, page: Number(head.dataset.pageUs), fixup: Number(head.dataset.fixupNs),
      told: "told" in head.dataset, share: "share" in head.dataset,
    }));
    const part = (limit, low, high) => (low < high ? (limit - low + 1) / (high - low + 1) : limit >= low ? 1 : 0);
    const share = (limit) => bins.reduce(
      (sum, [low, high, count]) => sum + count * Math.min(Math.max(part(limit, low, high), 0), 1), 0);
    const verdict = (way, trip) => {
      const gain = (trip - way.page) * 1e3;
      if (gain <= 0) return ["never"];
      const limit = way.fixup > 0 ? gain / way.fixup : Infinity;
      if (limit >= most) return ["any number"];
      return [limit.toFixed(0), pages && way.share ? `${(100 * share(limit) / pages).toFixed(0)} % of pages` : ""];
    };
    const said = ([limit, part]) => (part === undefined ? limit : `up to ${limit} a page${part && ` (${part})`}`);
    const show = () => {
      const latency = 10 ** Number(input.value), trip = base + latency;
      input.setAttribute("aria-valuetext", time(latency));
      const verdicts = ways.map((way) => verdict(way, trip));
      output.textContent = `A read takes ${time(latency)}, a page's way out and back ${time(trip)}. Dropping takes less time, by how fixups are made again: ` +
        ways.map((way, index) => way.told && `${way.name}: ${said(verdicts[index])}`).filter(Boolean).join("; ") + ".";
      const row = document.querySelector("#break-even tr.slider");
      if (row) {
        row.querySelector("th small").textContent = `${time(latency)} a read, ${time(trip)} a page`;
        row.querySelectorAll("td").forEach((cell, index) => {
          const [limit, part] = verdicts[index], small = document.createElement("small");
          small.textContent = part ?? "";
          cell.replaceChildren(limit, small);
        });
      }
      for (const svg of document.querySelectorAll("svg[data-low]")) {
        const { low, high, top, bottom } = svg.dataset;
        const part = Math.log(trip / low) / Math.log(high / low);
        const at = Number(bottom) + Math.min(Math.max(part, 0), 1) * (Number(top) - Number(bottom));
        const line = svg.querySelector(".device line"), name = svg.querySelector(".device text");
        line.setAttribute("y1", at);
        line.setAttribute("y2", at);
        name.setAttribute("y", at < Number(top) + 24 ? at + 17 : at - 6);
        name.textContent = `another device, ${time(trip)}${part > 1 ? " (beyond this chart)" : ""}`;
      }
    };
    input.addEventListener("input", show);
    for (const button of form.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        input.value = Math.log10(Number(button.dataset.us));
        show();
      });
    }
    show();
  }

  for (const button of document.querySelectorAll("button.copy")) {
    button.addEventListener("click", async () => {
      const block = document.getElementById(button.dataset.copies);
      try {
        await navigator.clipboard.writeText(block.textContent);
        button.textContent = "copied";
      } catch {
        getSelection().selectAllChildren(block);
        button.textContent = "selected";
      }
    });
  }
})();
