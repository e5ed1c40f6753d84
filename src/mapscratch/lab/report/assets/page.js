// SPDX-License-Identifier: Apache-2.0
// The slider for another device, and buttons that copy. Without this the page says all the rest.
(() => {
  "use strict";
  document.documentElement.classList.add("live");

  const form = document.querySelector(".device-form");
  if (form) {
    // What is said for each step was reckoned when the page was made.
    const steps = JSON.parse(form.dataset.steps);
    const input = form.querySelector("input"), output = form.querySelector("output");
    const row = document.querySelector("#break-even tr.slider");
    const line = document.querySelector(".device line"), name = document.querySelector(".device text");
    const show = () => {
      const [head, text, at, beside, cells] = steps[Number(input.value)];
      input.setAttribute("aria-valuetext", head);
      output.textContent = text;
      row.querySelector("th small").textContent = head;
      row.querySelectorAll("td").forEach((cell, index) => {
        const [limit, share] = cells[index], small = document.createElement("small");
        small.textContent = share;
        cell.replaceChildren(limit, small);
      });
      line.setAttribute("y1", at);
      line.setAttribute("y2", at);
      name.setAttribute("y", at < 68 ? at + 17 : at - 6);
      name.textContent = beside;
    };
    input.addEventListener("input", show);
    for (const button of form.querySelectorAll("button")) {
      button.addEventListener("click", () => {
        input.value = button.dataset.step;
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
