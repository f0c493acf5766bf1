"use strict";
(() => {
  const ENGLISH = {
    search: "Search the products",
    further: "Show more",
    status: (shown, products, looked, time) => `Best ${shown} of ${products}\u00a0· ${looked} scored in full\u00a0· ${time}`,
    similarStatus: (shown, products, time) => `Best ${shown} of ${products}\u00a0· ${time}`,
    products: (count) => (count === 1 ? "1 product" : `${number(count)} products`),
    time: (seconds) => (seconds < 1 ? `${number(1000 * seconds, 0)} ms` : `${number(seconds, 1)} s`),
    similar: "More like this",
    similarTo: "More like",
    unknown: "The model does not know",
    nearest: "Nearest known:",
    leftOut: (count) => `The query is long: its last ${number(count)} words did not count.`,
    noHits: "Nothing to show.",
    reasons: {
      "no words": "This query has no word to search for: words like “the” and signs do not count.",
      "no known words": "The model knows no word of this query, so it has nothing to rank by.",
      "no products": "The index has no products.",
    },
    alone: "The index has no other product.",
    long: (most) => `This query has more than ${number(most)} letters, which is more than a search takes.`,
    gone: "The index has no such product any more.",
    failed: "The server does not answer. Press Enter to try again.",
    refused: "The server could not do this search. Press Enter to try again.",
    region: (weight, label) => `${label ? `${label}: ` : ""}${weight} of the weight`,
    words: "Words of the query: weight and score",
    legend: "Frames: the two regions that the image encoder weighed most. Bars: the weight of each word of the query; behind them the word’s score.",
  };
  const CHINESE = {
    search: "搜索商品",
    further: "显示更多",
    status: (shown, products, looked, time) => `${products}中最相符的 ${shown} 件\u00a0· 完整计算 ${looked} 件\u00a0· ${time}`,
    similarStatus: (shown, products, time) => `${products}中最相似的 ${shown} 件\u00a0· ${time}`,
    products: (count) => `${number(count)} 件商品`,
    time: (seconds) => (seconds < 1 ? `${number(1000 * seconds, 0)} 毫秒` : `${number(seconds, 1)} 秒`),
    similar: "找相似",
    similarTo: "与之相似：",
    unknown: "模型不认识",
    nearest: "相近的词：",
    leftOut: (count) => `查询过长，最后 ${number(count)} 个词未计入。`,
    noHits: "没有可显示的结果。",
    reasons: {
      "no words": "查询中没有可搜索的词：虚词和符号不计入。",
      "no known words": "模型不认识查询中的任何词，无从排序。",
      "no products": "索引中没有商品。",
    },
    alone: "索引中没有其他商品。",
    long: (most) => `查询超过 ${number(most)} 个字符，无法搜索。`,
    gone: "索引中已没有该商品。",
    failed: "服务器没有响应，请按回车重试。",
    refused: "服务器未能完成搜索，请按回车重试。",
    region: (weight, label) => `${label ? `${label}：` : ""}权重 ${weight}`,
    words: "查询词：权重与得分",
    legend: "方框：图像编码器权重最大的两个区域。条形：查询中各词的权重，其后为该词得分。",
  };
  const language = navigator.language.toLowerCase().startsWith("zh") ? "zh" : "en";
  const text = language === "zh" ? CHINESE : ENGLISH;

  const STEP = 24;
  const MOST = 192;
  const LONGEST = 1000;
  // After a pause of so many milliseconds what is typed is searched for.
  const PAUSE = 250;
  const KEPT = 30;
  const FRAMED = 2;

  const box = document.getElementById("box");
  const list = document.getElementById("completions");
  const status = document.getElementById("status");
  const notes = document.getElementById("notes");
  const hits = document.getElementById("hits");
  const further = document.getElementById("further");
  const legend = document.getElementById("legend");

  // Texts become text nodes and never markup; attributes are set by name.
  function el(name, attributes = {}, ...children) {
    const node = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    node.append(...children);
    return node;
  }
  const named = (value) => el("bdi", { dir: "auto" }, value);
  function number(value, digits = 0) {
    const places = { minimumFractionDigits: digits, maximumFractionDigits: digits };
    return value.toLocaleString(language, { ...places, signDisplay: "negative" });
  }
  const score = (value) => number(value, Math.abs(value) < 10 ? 2 : 1).replace("-", "−");
  const percent = (value) => `${number(100 * value)}%`;

  // What is shown is what the address says: ?q=QUERY or ?like=ID, and &k= how many.
  function read() {
    const given = new URLSearchParams(location.search);
    const wanted = Math.trunc(Number(given.get("k"))) || STEP;
    return { q: given.get("q") ?? "", like: given.get("like"), k: Math.min(Math.max(wanted, 1), MOST) };
  }
  function write({ q, like, k = STEP }, replace) {
    const given = new URLSearchParams();
    if (like !== undefined && like !== null) given.set("like", like);
    else if (q) given.set("q", q);
    if (k !== STEP) given.set("k", k);
    const address = given.size ? `?${given}` : location.pathname;
    history[replace ? "replaceState" : "pushState"](null, "", address);
  }

  // The last answers by address: going back shows them at once, and where they were.
  const answers = new Map();
  let running = null;

  async function ask(address) {
    running = new AbortController();
    const response = await fetch(address, { signal: running.signal });
    if (response.status === 404) throw new Error(text.gone);
    if (!response.ok) throw new Error(text.refused);
    const answer = await response.json();
    answers.set(address, answer);
    if (answers.size > KEPT) answers.delete(answers.keys().next().value);
    return answer;
  }

  async function load({ typing = false, back = false } = {}) {
    // What was asked before must not be shown over what is asked now.
    running?.abort();
    const { q, like, k } = read();
    const asked = like ?? q.trim();
    document.body.classList.toggle("blank", asked === "");
    document.title = asked === "" ? text.search : like === null ? `${q.trim()} · ${text.search}` : text.similar;
    if (!typing) {
      box.value = q;
      close();
    }
    if (asked === "") return clear();
    if (q.length > LONGEST) return say(text.long(LONGEST));
    const address =
      like === null ? `api/search?${new URLSearchParams({ q, k })}` : `api/similar/${encodeURIComponent(like)}?k=${k}`;
    document.body.classList.add("busy");
    try {
      // A known answer is shown in this very turn, before the browser restores how far the page was scrolled.
      const answer = (back && answers.get(address)) || (await ask(address));
      show(answer, k, typing);
    } catch (error) {
      if (error.name === "AbortError") return;
      say(error instanceof TypeError ? text.failed : error.message);
    }
    document.body.classList.remove("busy");
  }

  function clear() {
    document.body.classList.remove("busy");
    status.textContent = "";
    notes.replaceChildren();
    hits.replaceChildren();
    further.hidden = legend.hidden = true;
  }
  function say(...reasons) {
    clear();
    notes.replaceChildren(...reasons.map((reason) => el("p", { class: "reason" }, reason)));
  }

  function show(answer, k, typing) {
    const found = answer.hits;
    const products = text.products(answer.products);
    const time = text.time(answer.seconds);
    const shown = number(found.length);
    clear();
    if (answer.product) {
      status.textContent = found.length ? text.similarStatus(shown, products, time) : "";
      notes.append(el("p", { class: "similar" }, el("span", {}, text.similarTo), picture(answer.product), name(answer.product)));
      if (!found.length) notes.append(el("p", { class: "reason" }, text.alone));
    } else {
      status.textContent = found.length ? text.status(shown, products, number(answer.looked_at), time) : "";
      // While a word is being typed it need not be known yet.
      const ended = !typing || /[\s\p{P}]$/u.test(answer.query);
      const unfinished = ended ? null : answer.query.toLowerCase();
      for (const unknown of answer.unknown) {
        if (!unfinished?.endsWith(unknown.word)) notes.append(unknownNote(answer.query, unknown));
      }
      if (answer.left_out) notes.append(el("p", {}, text.leftOut(answer.left_out)));
      if (!found.length) notes.append(el("p", { class: "reason" }, text.reasons[answer.reason] ?? text.noHits));
    }
    const unknown = new Set(answer.unknown?.map(({ word }) => word));
    hits.replaceChildren(...found.map((hit) => card(hit, unknown)));
    further.hidden = found.length < k || k >= MOST;
    legend.hidden = !found.length || Boolean(answer.product);
  }

  function unknownNote(query, { word, nearest }) {
    const note = el("p", { class: "unknown" }, `${text.unknown} `, el("s", {}, named(word)));
    if (nearest.length) note.append(" ", el("span", {}, text.nearest));
    for (const known of nearest) {
      const button = el("button", { type: "button" }, named(known));
      const place = query.toLowerCase().lastIndexOf(word);
      button.addEventListener("click", () => {
        search(place < 0 ? known : query.slice(0, place) + known + query.slice(place + word.length));
      });
      note.append(" ", button);
    }
    return note;
  }

  function name({ id, title, url }) {
    const label = named(title || url || id);
    return url ? el("a", { href: url, rel: "noreferrer" }, label) : label;
  }

  // The picture with the regions that the encoder weighed most. Where there is no picture all regions are drawn,
  // the large ones first, so that they cover no small one.
  function picture(product) {
    const frame = el("span", { class: "frame" });
    frame.style.setProperty("--ratio", product.width / product.height);
    const drawAll = () => {
      const area = ({ box: [top, left, bottom, right] }) => (bottom - top) * (right - left);
      frame.classList.add("drawn");
      frame.replaceChildren(...product.regions.toSorted((left, right) => area(right) - area(left)).map((region) => outline(region, true)));
    };
    if (!product.pictured) drawAll();
    else {
      const photograph = el("img", { src: `pictures/${encodeURIComponent(product.id)}`, alt: "", loading: "lazy", decoding: "async" });
      photograph.addEventListener("error", drawAll);
      frame.append(photograph);
      const heaviest = product.regions.toSorted((left, right) => right.weight - left.weight).slice(0, FRAMED);
      frame.append(...heaviest.reverse().map((region) => outline(region, false)));
    }
    return el("span", { class: "picture" }, frame);
  }
  function outline({ box: [top, left, bottom, right], weight, label }, labelled) {
    const tag = el("span", {}, labelled && label ? `${label} ` : "", percent(weight));
    const region = el("span", { class: "region", title: text.region(percent(weight), label) }, tag);
    for (const [side, share] of Object.entries({ top, left, width: right - left, height: bottom - top })) {
      region.style.setProperty(side, `${100 * share}%`);
    }
    region.style.setProperty("--weight", percent(weight));
    // The tags of regions that share a corner stand apart.
    region.style.setProperty("--along", (left + right) / 2);
    region.classList.toggle("low", top + bottom > 1.01);
    return region;
  }

  function card(hit, unknown) {
    const words = hit.words.map(({ word, weight, score: value }) => {
      const label = unknown.has(word) ? el("s", {}, named(word)) : named(word);
      const row = el("tr", {}, el("th", { scope: "row" }, label), el("td", {}, percent(weight)), el("td", {}, score(value)));
      row.style.setProperty("--weight", percent(weight));
      return row;
    });
    const button = el("button", { type: "button", class: "more" }, text.similar);
    button.addEventListener("click", () => go({ like: hit.id }));
    return el(
      "li",
      {},
      // The name is the same link, for keys and for those who hear the page.
      hit.url ? el("a", { href: hit.url, rel: "noreferrer", tabindex: -1, "aria-hidden": "true" }, picture(hit)) : picture(hit),
      el("p", { class: "name" }, name(hit), el("span", { class: "score" }, score(hit.score))),
      ...(hit.title ? [el("p", { class: "id" }, named(hit.id))] : []),
      ...(words.length ? [el("table", {}, el("caption", { class: "unseen" }, text.words), el("tbody", {}, ...words))] : []),
      button,
    );
  }

  // What one types is one step of the history, which Enter ends.
  let settled = true;
  function go(wanted, typing = false) {
    write(wanted, !settled && wanted.like === undefined);
    settled = !typing;
    scrollTo(0, 0);
    load({ typing });
  }
  function search(query) {
    box.value = query;
    clearTimeout(pause);
    const same = read().like === null && read().q === query;
    if (!same) return go({ q: query });
    settled = true;
    load();
  }

  // Completion, as the pattern of a combobox with a list (ARIA Authoring Practices) has it.
  let pause = 0;
  let completing = 0;
  async function complete() {
    const mine = ++completing;
    const typed = box.value;
    if (!typed.trim() || typed.length > LONGEST) return close();
    try {
      const response = await fetch(`api/complete?${new URLSearchParams({ q: typed })}`);
      if (!response.ok || mine !== completing) return;
      const { completions } = await response.json();
      if (mine === completing) open(completions);
    } catch {
      close();
    }
  }
  function open(completions) {
    list.replaceChildren(
      ...completions.map(({ query, word }, i) => {
        const rest = query.slice(0, query.length - word.length);
        const option = el("li", { role: "option", id: `completion-${i}`, "aria-selected": "false" }, named(rest), el("b", {}, named(word)));
        option.dataset.query = query;
        // Before the box loses the focus, and the list closes.
        option.addEventListener("pointerdown", (event) => {
          event.preventDefault();
          search(query);
          box.focus();
        });
        return option;
      }),
    );
    list.hidden = !completions.length;
    box.setAttribute("aria-expanded", String(!list.hidden));
    box.removeAttribute("aria-activedescendant");
  }
  function close() {
    completing++;
    open([]);
  }
  function choose(by) {
    const options = [...list.children];
    const before = options.findIndex((option) => option.ariaSelected === "true");
    const place = (before < 0 && by < 0 ? options.length : before) + by;
    options.forEach((option, i) => option.setAttribute("aria-selected", String(i === place)));
    if (options[place]) {
      box.setAttribute("aria-activedescendant", options[place].id);
      options[place].scrollIntoView({ block: "nearest" });
    } else box.removeAttribute("aria-activedescendant");
  }

  box.addEventListener("input", (event) => {
    clearTimeout(pause);
    // A word that is still being composed by an input method is not there yet.
    if (event.isComposing) return;
    complete();
    pause = setTimeout(() => {
      if (box.value.trim() !== read().q.trim() || read().like !== null) go({ q: box.value }, true);
    }, PAUSE);
  });
  box.addEventListener("compositionend", () => box.dispatchEvent(new Event("input")));
  box.addEventListener("blur", close);
  document.querySelector("form").addEventListener("submit", (event) => event.preventDefault());
  further.addEventListener("click", () => {
    write({ ...read(), k: Math.min(read().k + STEP, MOST) }, true);
    load();
  });

  // The cards are as many in a row as stand at the height of the first.
  function step(key) {
    const buttons = [...hits.querySelectorAll(".more")];
    const place = buttons.indexOf(document.activeElement);
    if (place < 0) return false;
    const cards = [...hits.children];
    const columns = cards.filter((one) => one.offsetTop === cards[0].offsetTop).length;
    const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[key];
    if (place + by < 0) box.focus();
    else reach(Math.min(place + by, buttons.length - 1));
    return true;
  }
  function reach(place) {
    const button = hits.children[place]?.querySelector(".more");
    button?.focus({ preventScroll: true });
    hits.children[place]?.scrollIntoView({ block: "nearest" });
    return Boolean(button);
  }
  function handle(key) {
    const opened = !list.hidden;
    if (document.activeElement === box) {
      if (key === "ArrowDown" || key === "ArrowUp") {
        if (opened) choose(key === "ArrowDown" ? 1 : -1);
        else return key === "ArrowDown" && reach(0);
      } else if (key === "Enter") {
        const chosen = list.querySelector("[aria-selected=true]");
        search(chosen ? chosen.dataset.query : box.value);
      } else if (key === "Escape" && opened) close();
      else return false;
      return true;
    }
    if (key === "/" || key === "Escape") {
      box.focus();
      box.select();
      return true;
    }
    return key.startsWith("Arrow") && step(key);
  }
  document.addEventListener("keydown", (event) => {
    const { key, ctrlKey, metaKey, altKey, isComposing } = event;
    if (!ctrlKey && !metaKey && !altKey && !isComposing && handle(key)) event.preventDefault();
  });
  addEventListener("popstate", () => {
    settled = true;
    clearTimeout(pause);
    load({ back: true });
  });

  document.documentElement.lang = language === "zh" ? "zh-CN" : "en";
  for (const node of document.querySelectorAll("[data-text]")) node.textContent = text[node.dataset.text];
  box.placeholder = text.search;
  load();
})();
