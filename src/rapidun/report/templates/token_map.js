"use strict";
// Lights tokens up. Each query's numbers: rows (places of its traced tokens) and, for every hit, columns and matrix.
(() => {
  const shown = (value) => (value < 0 ? "\u2212" : "") + Number(Math.abs(value).toPrecision(2));
  const text = (token) => `\u2018${token.textContent.replace(/\u21b5\n?/g, "\u21b5").trim() || " "}\u2019`;
  const sum = (values) => values.reduce((a, b) => a + b, 0);

  // Background by share of the largest value; the three largest are underlined, so colour is never the only sign.
  const paint = (pairs, largest) => {
    const strongest = new Set([...pairs].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 3).filter(([, v]) => v).map(([t]) => t));
    for (const [token, value] of pairs) {
      const share = largest ? Math.min(1, Math.abs(value) / largest) : 0;
      const lit = share >= 0.06;
      token.style.background = lit ? `color-mix(in srgb, var(--${value > 0 ? "high" : "low"}-soft) ${Math.round(100 * share)}%, transparent)` : "";
      token.classList.toggle("lit", lit);
      token.classList.toggle("strong", lit && strongest.has(token));
      token.title = shown(value);
    }
  };

  const start = (section) => {
    const data = JSON.parse(section.querySelector("script").textContent);
    const sides = (name) => [...section.querySelectorAll(`[data-side="${name}"]`)];
    const traced = (side) => [...side.querySelectorAll("[data-place]")];
    const asked = traced(sides("query")[0]);
    const hits = sides("train").map((side, number) => ({ tokens: traced(side), matrix: data.hits[number].matrix }));
    const status = section.querySelector("[role=status]");
    let kept = null;

    const paintHits = (valuesOf) => {
      const pairs = hits.flatMap((hit) => hit.tokens.map((token, j) => [token, valuesOf(hit, j)]));
      paint(pairs, Math.max(0, ...pairs.map(([, value]) => Math.abs(value))));
      return pairs;
    };
    const paintQuery = (valuesOf) => {
      const pairs = asked.map((token, i) => [token, valuesOf(i)]);
      paint(pairs, Math.max(0, ...pairs.map(([, value]) => Math.abs(value))));
      return pairs;
    };
    const listed = (pairs) => [...pairs].sort((a, b) => Math.abs(b[1]) - Math.abs(a[1])).slice(0, 3)
      .filter(([, value]) => value).map(([token, value]) => `${text(token)} ${shown(value)}`).join(", ") || "nothing";
    const mark = (token) => {
      for (const old of section.querySelectorAll(".from")) old.classList.remove("from");
      token?.classList.add("from");
    };

    const overview = () => {
      mark(null);
      paintQuery((i) => sum(hits.map((hit) => sum(hit.matrix[i]))));
      const pairs = paintHits((hit, j) => sum(hit.matrix.map((row) => row[j])));
      status.textContent = `The whole query. Strongest training tokens: ${listed(pairs)}.`;
    };
    const fromQuery = (i) => {
      mark(asked[i]);
      paintQuery(() => 0);
      const pairs = paintHits((hit, j) => hit.matrix[i][j]);
      status.textContent = `Behind ${text(asked[i])} (${shown(sum(pairs.map(([, value]) => value)))} in all): ${listed(pairs)}.`;
    };
    const fromTrain = (number, j) => {
      mark(hits[number].tokens[j]);
      paintHits(() => 0);
      const pairs = paintQuery((i) => hits[number].matrix[i][j]);
      status.textContent = `${text(hits[number].tokens[j])} of row ${number + 1} is behind: ${listed(pairs)}.`;
    };
    const rest = () => (kept === null ? overview() : fromQuery(kept));
    const keep = (i) => {
      kept = kept === i ? null : i;
      asked.forEach((token, place) => token.setAttribute("aria-pressed", String(place === kept)));
      rest();
    };

    asked.forEach((token, i) => {
      token.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") fromQuery(i); });
      token.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") rest(); });
      token.addEventListener("focus", () => { if (token.matches(":focus-visible")) fromQuery(i); });
      token.addEventListener("blur", rest);
      token.addEventListener("click", () => keep(i));
      token.addEventListener("keydown", (event) => {
        const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key];
        if (event.key === "Enter" || event.key === " ") keep(i);
        else if (step && asked[i + step]) {
          token.tabIndex = -1;
          asked[i + step].tabIndex = 0;
          asked[i + step].focus();
        } else return;
        event.preventDefault();
      });
    });
    hits.forEach(({ tokens }, number) => tokens.forEach((token, j) => {
      token.addEventListener("pointerenter", (event) => { if (event.pointerType === "mouse") fromTrain(number, j); });
      token.addEventListener("pointerleave", (event) => { if (event.pointerType === "mouse") rest(); });
    }));
    section.addEventListener("keydown", (event) => { if (event.key === "Escape" && kept !== null) keep(kept); });
    if (asked.length) asked[0].tabIndex = 0;
    overview();
  };

  for (const section of document.querySelectorAll("[data-query]")) start(section);
})();
