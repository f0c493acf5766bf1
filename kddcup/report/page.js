"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const photographs = new Set(data.photographs);
  const list = document.querySelector("#list tbody");
  const search = document.getElementById("search");
  const filter = document.getElementById("filter");
  // Where a candidate's scores and ranks begin; the blend is the last model; columns of the list.
  const SCORES = 3;
  const RANKS = SCORES + data.models.length;
  const BLEND = data.models.length - 1;
  const COLUMNS = data.models.length + 4;
  const SVG = "http://www.w3.org/2000/svg";

  // Texts become text nodes and never markup; attributes are set by name.
  function fill(node, attributes, children) {
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    node.append(...children);
    return node;
  }
  const el = (name, attributes = {}, ...children) => fill(document.createElement(name), attributes, children);
  const svg = (name, attributes = {}, ...children) => fill(document.createElementNS(SVG, name), attributes, children);

  const fixed = (value, digits) => value.toFixed(digits).replace("-", "−");
  const digits = (value) => fixed(value, Math.abs(value) < 100 ? 3 : 0);

  // Eleven hues in three lightnesses and strokes tell 33 labels apart; neighbours in number get distant hues.
  function inked(node, label) {
    const colour = data.labels[label][1];
    const tier = Math.floor(colour / 11);
    node.classList.add("region", ...[[], ["dashed"], ["dotted"]][tier]);
    node.style.setProperty("--hue", ((colour % 11) * 4 * 360) / 11);
    node.style.setProperty("--step", tier);
    return node;
  }
  const nameOf = (label) => data.labels[label][0];

  function picture(product, [height, width, ...boxes]) {
    const area = ([top, left, bottom, right]) => (bottom - top) * (right - left);
    const names = [...new Set(boxes.map((box) => nameOf(box[4])))].join(", ");
    const drawn = svg("svg", {
      class: "picture",
      viewBox: `0 0 ${width} ${height}`,
      role: "img",
      "aria-label": `${boxes.length} region${boxes.length > 1 ? "s" : ""}: ${names}`,
    });
    drawn.append(svg("rect", { class: "frame", width, height }));
    if (photographs.has(product)) {
      drawn.classList.add("photographed");
      const content = document.getElementById(`photograph-${product}`).textContent;
      drawn.append(svg("image", { width, height, preserveAspectRatio: "none", href: `data:image/webp;base64,${content}` }));
    }
    // The large ones first, so that they cover no small one.
    for (const box of boxes.toSorted((left, right) => area(right) - area(left))) {
      const [top, left, bottom, right, label] = box;
      const shape = { x: left, y: top, width: Math.max(0, right - left), height: Math.max(0, bottom - top) };
      drawn.append(inked(svg("rect", shape, svg("title", {}, nameOf(label))), label));
    }
    return drawn;
  }

  function legend([, , ...boxes]) {
    const counts = new Map();
    for (const box of boxes) counts.set(box[4], (counts.get(box[4]) ?? 0) + 1);
    const items = [...counts].map(([label, count]) => {
      const swatch = svg("svg", { viewBox: "0 0 14 11", "aria-hidden": "true" });
      swatch.append(inked(svg("rect", { x: 1, y: 1, width: 12, height: 9 }), label));
      const name = el("bdi", { title: nameOf(label) }, nameOf(label));
      return el("li", {}, swatch, name, ...(count > 1 ? [el("span", { class: "soft" }, `×${count}`)] : []));
    });
    return el("ul", { class: "labels" }, ...items);
  }

  function table(name, title, headings, rows) {
    const head = headings.map((text, i) => el("th", { scope: "col", ...(i && { class: "number" }) }, text));
    return el(
      "table",
      { class: name },
      el("caption", { class: "unseen" }, title),
      el("thead", {}, el("tr", {}, ...head)),
      el("tbody", {}, ...rows),
    );
  }
  const number = (text) => el("td", { class: "number" }, text);

  function scoreTable(candidate, order) {
    const rows = data.models.map((model, i) =>
      el(
        "tr",
        i === order ? { class: "by" } : {},
        el("th", { scope: "row" }, model),
        number(digits(candidate[SCORES + i])),
        number(String(candidate[RANKS + i])),
      ),
    );
    return table("scores", "Scores and ranks", ["", "score", "rank"], rows);
  }

  function wordTable(words, parts) {
    const rows = words.map((word, i) => {
      const [weight, score, head] = parts[i];
      const cells = [`${fixed(100 * weight, 0)}%`, digits(score), String(head)].map(number);
      const row = el("tr", { class: "weighted" }, el("th", { scope: "row" }, el("bdi", {}, word)), ...cells);
      row.style.setProperty("--weight", `${100 * weight}%`);
      return row;
    });
    const title = `Of each word, its weight in ${data.explained}, its best score with a label head of the image, and which head`;
    return table("words", title, ["word", "weight", "best", "head"], rows);
  }

  function card(query, index, order) {
    const candidate = query.candidates[index];
    const [product, image, relevant] = candidate;
    const regions = data.images[image];
    const rank = candidate[RANKS + order];
    const mark = relevant ? [el("span", { class: "mark" }, "✓ answer")] : [];
    const words = query.words?.length ? [wordTable(query.words, query.parts[index])] : [];
    const [id, title, url] = data.products[product] ?? [product, "", ""];
    const name = el("bdi", { dir: "auto" }, title || url);
    const link = url ? el("a", { href: url, rel: "noreferrer" }, name) : name;
    return el(
      "li",
      { class: relevant ? "card hit" : "card" },
      el("p", { class: "top" }, el("span", { class: "rank" }, String(rank)), ...mark, el("span", { class: "product" }, el("bdi", {}, id))),
      ...(title || url ? [el("p", { class: "title" }, link)] : []),
      el(
        "div",
        { class: "sides" },
        el("div", {}, picture(product, regions), legend(regions)),
        el("div", {}, scoreTable(candidate, order), ...words),
      ),
    );
  }

  function detail(query) {
    const order = Number(document.querySelector("input[name=order]:checked").value);
    const rank = (index) => query.candidates[index][RANKS + order];
    const indices = [...query.candidates.keys()].sort((left, right) => rank(left) - rank(right));
    const found = query.candidates.filter((candidate) => candidate[2]).length;
    const missing = query.answers - found;
    const facts = [
      `Query ${query.id}`,
      `${query.answers} answer${query.answers > 1 ? "s" : ""}` + (missing ? `, ${missing} of them not among the candidates` : ""),
      "NDCG@5 " + data.models.map((model, i) => `${model} ${fixed(query.ndcg[i], 3)}`).join(", "),
    ];
    const cell = el("td", { colspan: COLUMNS }, el("p", { class: "facts" }, facts.join(" · ")));
    for (const [title, part] of [
      [`The ${data.best} best of ${data.models[order]}`, indices.slice(0, data.best)],
      ["Further candidates", indices.slice(data.best)],
    ]) {
      if (part.length) cell.append(el("h3", {}, title), el("ol", { class: "cards" }, ...part.map((index) => card(query, index, order))));
    }
    return el("tr", { class: "detail", id: `detail-${query.id}` }, cell);
  }

  // A row of the list; the candidates are made when it opens and dropped when it closes.
  const rows = data.queries.map((query, place) => {
    const button = el("button", { type: "button", "aria-expanded": "false" }, el("bdi", { dir: "auto" }, query.text.trim() ? query.text : "(no text)"));
    const numbers = [query.candidates.length, query.answers].map((count) => el("td", { class: "number wide" }, String(count)));
    const figures = query.ndcg.map((ndcg, i) => el("td", { class: i === BLEND ? "number strong" : "number wide" }, fixed(ndcg, 3)));
    const node = el(
      "tr",
      { class: "query" },
      el("th", { scope: "row" }, button),
      ...numbers,
      ...figures,
      number(fixed(query.disagreement, 2)),
    );
    const row = { query, place, node, button, detail: null, text: `${query.id} ${query.text}`.toLowerCase() };
    button.addEventListener("click", () => (row.detail ? close(row) : open(row)));
    return row;
  });

  function open(row) {
    row.detail = detail(row.query);
    row.node.after(row.detail);
    row.button.setAttribute("aria-expanded", "true");
    row.button.setAttribute("aria-controls", row.detail.id);
  }
  function close(row) {
    row.detail.remove();
    row.detail = null;
    row.button.setAttribute("aria-expanded", "false");
    row.button.removeAttribute("aria-controls");
  }

  const values = {
    text: (query) => query.text,
    candidates: (query) => query.candidates.length,
    answers: (query) => query.answers,
    ndcg: (query, model) => query.ndcg[model],
    disagreement: (query) => query.disagreement,
  };
  const collator = new Intl.Collator();
  let shown = [];
  let chosen = null;

  function show() {
    const header = document.querySelector("#list [aria-sort]");
    const value = ({ query }) => values[header.dataset.key](query, header.dataset.model);
    const sign = header.getAttribute("aria-sort") === "ascending" ? 1 : -1;
    const compare = header.dataset.key === "text" ? collator.compare : (left, right) => left - right;
    const wanted = search.value.toLowerCase().split(/\s+/).filter(Boolean);
    shown = rows
      .filter((row) => wanted.every((word) => row.text.includes(word)))
      .filter((row) => !chosen || row.query[chosen.kind].includes(chosen.value))
      .sort((left, right) => sign * compare(value(left), value(right)) || left.place - right.place);
    list.replaceChildren(...shown.flatMap((row) => (row.detail ? [row.node, row.detail] : [row.node])));
    const mean = shown.reduce((sum, row) => sum + row.query.ndcg[BLEND], 0) / shown.length;
    document.getElementById("count").textContent =
      `${shown.length} of ${rows.length} queries` + (shown.length ? `, blend ${fixed(mean, 3)}` : "");
  }

  for (const header of document.querySelectorAll("#list thead th")) {
    header.firstElementChild.addEventListener("click", () => {
      const before = header.getAttribute("aria-sort");
      const first = header.dataset.key === "disagreement" ? "descending" : "ascending";
      const turned = before === "ascending" ? "descending" : "ascending";
      document.querySelector("#list [aria-sort]").removeAttribute("aria-sort");
      header.setAttribute("aria-sort", before ? turned : first);
      show();
    });
  }
  search.addEventListener("input", show);

  function choose(next) {
    chosen = next;
    filter.hidden = !next;
    if (next) filter.firstElementChild.replaceChildren(next.title, el("bdi", {}, next.name));
    show();
  }
  for (const button of document.querySelectorAll(".pick")) {
    const { kind, value } = button.dataset;
    const title = { word: "Word: ", label: "Label: ", length: "Words in the query, stop words aside: " }[kind];
    button.addEventListener("click", () => {
      choose({ kind, value, title, name: button.textContent });
      document.getElementById("queries").scrollIntoView();
      filter.lastElementChild.focus({ preventScroll: true });
    });
  }
  filter.lastElementChild.addEventListener("click", () => {
    choose(null);
    search.focus();
  });

  for (const radio of document.querySelectorAll("input[name=order]")) {
    radio.addEventListener("change", () => {
      for (const row of rows.filter((row) => row.detail)) {
        const redrawn = detail(row.query);
        row.detail.replaceWith(redrawn);
        row.detail = redrawn;
      }
    });
  }

  function step(by) {
    const focused = document.activeElement.closest("tr");
    const place = shown.findIndex((row) => row.node === focused);
    const next = place < 0 ? (by > 0 ? 0 : shown.length - 1) : place + by;
    shown[next]?.button.focus();
  }
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const key = event.key;
    const inSearch = event.target === search;
    const onQuery = event.target.closest?.(".query") != null;
    if (key === "/" && !inSearch) search.select();
    else if (key === "ArrowDown" && inSearch) step(1);
    else if ((key === "j" && !inSearch) || (key === "ArrowDown" && onQuery)) step(1);
    else if ((key === "k" && !inSearch) || (key === "ArrowUp" && onQuery)) step(-1);
    else return;
    event.preventDefault();
  });

  show();
})();
