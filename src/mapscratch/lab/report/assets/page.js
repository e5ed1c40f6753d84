// SPDX-License-Identifier: Apache-2.0
// The slider for another device, and buttons that copy. Without this the page says all the rest.
(() => {
  "use strict";
  document.documentElement.classList.add("live");

  const input = document.querySelector("#device");
  if (input) {
    // What is said for each step was reckoned and written when the page was made.
    const steps = document.querySelectorAll("output p"), rows = document.querySelectorAll("tr.slider");
    const line = document.querySelector(".device line"), name = document.querySelector(".device text");
    const show = () => {
      for (const parts of [steps, rows]) {
        parts.forEach((part, index) => { part.hidden = index !== Number(input.value); });
      }
      const at = Number(steps[input.value].dataset.y);
      line.setAttribute("y1", at);
      line.setAttribute("y2", at);
      name.setAttribute("y", at < 68 ? at + 17 : at - 6);
      name.textContent = steps[input.value].dataset.name;
      input.setAttribute("aria-valuetext", name.textContent);
    };
    input.addEventListener("input", show);
    for (const button of document.querySelectorAll(".presets button")) {
      button.addEventListener("click", () => { input.value = button.value; show(); });
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
