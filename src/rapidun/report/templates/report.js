"use strict";
// Draws the charts in the colours of the reader's scheme, and again when the scheme changes or the page prints.
const charts = async () => {
  // What Python's base64.b85encode and gzip made of a text.
  const unpacked = async (name) => {
    const source = document.getElementById(name);
    const digits = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz!#$%&()*+-;<=>?@^_`{|}~";
    const values = new Uint8Array(128);
    [...digits].forEach((digit, value) => { values[digit.charCodeAt(0)] = value; });
    const text = source.textContent, view = new DataView(new ArrayBuffer((text.length / 5) * 4));
    for (let from = 0, to = 0; from < text.length; from += 5, to += 4) {
      let number = 0;
      for (let place = from; place < from + 5; place++) number = number * 85 + values[text.charCodeAt(place)];
      view.setUint32(to, number);
    }
    const bytes = new Blob([view.buffer.slice(0, Number(source.dataset.size))]);
    return new Response(bytes.stream().pipeThrough(new DecompressionStream("gzip"))).text();
  };
  const library = document.createElement("script");
  library.textContent = await unpacked("plotly");
  document.head.append(library);

  const scheme = window.matchMedia("(prefers-color-scheme: dark)");
  const partners = JSON.parse(document.getElementById("dark-colours").textContent);
  const options = { displaylogo: false, displayModeBar: false, responsive: true };
  const drawn = JSON.parse(await unpacked("figures"));
  const figures = Object.entries(drawn).map(([id, figure]) => ({ place: document.getElementById(id), figure }));
  const paperWidth = 310; // pixels of half a page of A4 or Letter: a chart drawn wider would be cut
  let printing = false;

  const recoloured = (value) => {
    if (typeof value === "string") return partners[value] ?? value;
    if (Array.isArray(value)) return value.map(recoloured);
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, inner]) => [key, recoloured(inner)]));
  };

  const draw = () => {
    const dark = scheme.matches && !printing;
    for (const { place, figure } of figures) {
      // A fresh copy each time: plotly keeps what it is given and writes into it.
      const { data, layout } = dark ? recoloured(figure) : structuredClone(figure);
      if (printing) Object.assign(layout, { width: paperWidth, autosize: false });
      Plotly.react(place, data, layout, options);
    }
  };

  const unfold = () => {
    for (const details of document.querySelectorAll("details:not([open]):not(.clip)")) {
      details.open = true;
      details.dataset.unfolded = "";
    }
  };
  const fold = () => {
    for (const details of document.querySelectorAll("details[data-unfolded]")) {
      details.open = false;
      delete details.dataset.unfolded;
    }
  };

  window.addEventListener("beforeprint", () => { printing = true; unfold(); draw(); });
  window.addEventListener("afterprint", () => { printing = false; fold(); draw(); figures.forEach(({ place }) => Plotly.Plots.resize(place)); });
  scheme.addEventListener("change", draw);
  draw();
};

(() => {
  if (document.getElementById("plotly")) charts();
  // The table of contents says where the reader is.
  const links = new Map([...document.querySelectorAll("nav a")].map((link) => [link.hash.slice(1), link]));
  const spy = new IntersectionObserver((entries) => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const link of links.values()) link.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "-10% 0px -80% 0px" });
  for (const section of document.querySelectorAll("main > section")) spy.observe(section);
})();
