"use strict";
// The samples of a page: a list of groups with filters, and the completions of one group side by side.
// The address says what is shown: #group=12&sample=3&objective=grpo

(async () => {
  const root = document.getElementById("viewer");
  if (!root) return;
  const packed = Uint8Array.from(atob(document.getElementById("samples-data").textContent), (c) => c.charCodeAt(0));
  const unpacked = new Blob([packed]).stream().pipeThrough(new DecompressionStream("gzip"));
  const data = await new Response(unpacked).json();
  const { make } = Text;
  const isRun = data.kind === "run";
  const state = { group: data.groups[0]?.id, sample: null, objective: 0, mode: "credit", view: "tokens", limits: {} };
  const byId = new Map(data.groups.map((group) => [String(group.id), group]));
  const filter = { step: "", group: "", outcome: "any", least: "", most: "", order: "teaching" };
  let shown = [];
  let repaint = [];

  // -- controls -------------------------------------------------------------------------------------------------------

  function labelled(text, control) {
    const label = make("label", "", text);
    label.append(control);
    return label;
  }

  function choice(text, options, value, onChange) {
    const select = make("select");
    for (const [key, name] of options) select.append(new Option(name, key, false, key === value));
    select.addEventListener("change", () => onChange(select.value));
    return [labelled(text, select), select];
  }

  function input(text, key, placeholder, type = "number") {
    const field = make("input");
    field.type = type;
    if (type === "number") field.min = "0";
    field.placeholder = placeholder;
    field.addEventListener("input", () => {
      filter[key] = field.value;
      update();
    });
    return labelled(text, field);
  }

  const controls = make("form", "filters");
  controls.addEventListener("submit", (event) => event.preventDefault());
  const outcomes = data.graded
    ? [["any", "any"], ["mixed", "rewards differ"], ["same", "all rewards equal"]]
    : [["any", "any"], ["mixed", "right and wrong"], ["right", "some right"], ["wrong", "some wrong"],
       ["all-right", "all right"], ["all-wrong", "all wrong"]];
  if (data.changes) outcomes.push(["changed", "changed"], ["gained", "only the second is right"], ["lost", "only the first is right"]);
  controls.append(choice(isRun ? "answers" : "problems", outcomes, "any", (value) => { filter.outcome = value; update(); })[0]);
  if (isRun) controls.append(input("step", "step", "any"), input("group", "group", "any"));
  else controls.append(input("problem", "group", "any", "search"));
  controls.append(input("from … tokens", "least", "0"), input("to … tokens", "most", "any"));
  const orders = isRun ? [["teaching", "most to learn from first"], ["step", "by step"], ["number", "by group"]]
    : [["teaching", "as evaluated"], ["length", "longest first"]];
  controls.append(choice("order", orders, "teaching", (value) => { filter.order = value; update(); })[0]);
  let objectiveSelect = null;
  if (data.objectives && data.objectives.length) {
    const [label, select] = choice("objective", data.objectives.map((name, i) => [String(i), i === 0 && data.own ? `${name} (this run's)` : name]), "0",
      (value) => { state.objective = Number(value); address(); paint(); });
    objectiveSelect = select;
    controls.append(label);
  }
  const hasTokens = data.groups.some((group) => group.samples.some((sample) => sample.tokens));
  if (isRun) {
    const modes = [["credit", "weight × advantage"]];
    if (hasTokens) modes.push(["surprise", "surprise (−log-probability)"], ["entropy", "entropy"]);
    controls.append(choice("shade by", modes, "credit", (value) => { state.mode = value; paint(); })[0]);
    controls.append(choice("show", [["tokens", "tokens"], ["text", "text, with code and maths"]], "tokens",
      (value) => { state.view = value; draw(); })[0]);
  }

  // -- the list of groups ---------------------------------------------------------------------------------------------

  const list = make("ol", "groups");
  list.setAttribute("aria-label", isRun ? "groups" : "problems");
  const article = make("article", "group");
  const count = make("p", "note");
  count.setAttribute("aria-live", "polite");

  function outcome(sample) {
    if (sample.grade === null || data.graded) return "";
    return sample.grade === 1 ? "right" : "wrong";
  }

  function matches(group) {
    if (filter.step !== "" && group.step !== Number(filter.step)) return false;
    if (isRun ? filter.group !== "" && group.id !== Number(filter.group) : !group.name.includes(filter.group)) return false;
    const inRange = (sample) => (filter.least === "" || sample.length >= Number(filter.least))
      && (filter.most === "" || sample.length <= Number(filter.most));
    if (!group.samples.some(inRange)) return false;
    const grades = group.samples.map((sample) => sample.grade).filter((grade) => grade !== null);
    const right = grades.filter((grade) => grade === 1).length;
    switch (filter.outcome) {
      case "mixed": return new Set(grades).size > 1;
      case "same": return new Set(grades).size <= 1;
      case "right": return group.samples.some((sample) => sample.grade === 1 && inRange(sample));
      case "wrong": return group.samples.some((sample) => sample.grade === 0 && inRange(sample));
      case "all-right": return right === grades.length && right > 0;
      case "all-wrong": return right === 0;
      case "changed": return group.change !== "same";
      case "gained": case "lost": return group.change === filter.outcome;
      default: return true;
    }
  }

  function orderOf(groups) {
    if (filter.order === "step") return [...groups].sort((a, b) => a.step - b.step || a.id - b.id);
    if (filter.order === "number") return [...groups].sort((a, b) => a.id - b.id);
    const longest = (group) => Math.max(...group.samples.map((sample) => sample.length));
    if (filter.order === "length") return [...groups].sort((a, b) => longest(b) - longest(a));
    return groups;
  }

  function title(group) {
    return isRun ? `Step ${group.step}, group ${group.id}` : `Problem ${group.name}`;
  }

  function brief(group) {
    const lengths = group.samples.map((sample) => sample.length), few = Math.min(...lengths), many = Math.max(...lengths);
    const tokens = few === many ? `${few} tokens` : `${few}–${many} tokens`;
    if (data.graded) return tokens;
    const right = group.samples.filter((sample) => sample.grade === 1).length;
    return `${right} of ${group.samples.length} right, ${tokens}`;
  }

  function bars(group) {
    const chart = make("span", "bars"), longest = Math.max(1, ...group.samples.map((sample) => sample.length));
    chart.setAttribute("aria-hidden", "true");
    for (const sample of group.samples.slice(0, 16)) {
      const bar = make("i", outcome(sample));
      bar.style.height = `${Math.max(8, (100 * sample.length) / longest)}%`;
      chart.append(bar);
    }
    return chart;
  }

  function update() {
    shown = orderOf(data.groups.filter(matches));
    list.replaceChildren(...shown.map((group) => {
      const item = make("li"), button = make("button");
      button.type = "button";
      button.dataset.group = group.id;
      button.append(make("span", "", title(group)), make("small", "", brief(group)), bars(group));
      button.addEventListener("click", () => select(group.id));
      item.append(button);
      return item;
    }));
    count.textContent = `${shown.length} of ${data.groups.length} ${isRun ? "groups" : "problems"} match.`;
    if (!shown.some((group) => String(group.id) === String(state.group)) && shown.length) select(shown[0].id, false);
    else mark();
  }

  function mark() {
    for (const button of list.querySelectorAll("button")) {
      if (button.dataset.group === String(state.group)) button.setAttribute("aria-current", "true");
      else button.removeAttribute("aria-current");
    }
  }

  // -- one group ------------------------------------------------------------------------------------------------------

  function select(id, writeAddress = true) {
    state.group = id;
    state.sample = null;
    if (writeAddress) address();
    draw();
  }

  function address() {
    const parts = new URLSearchParams({ group: state.group });
    if (state.sample !== null) parts.set("sample", state.sample);
    if (state.objective) parts.set("objective", data.objectives[state.objective]);
    history.replaceState(null, "", `#${parts}`);
  }

  function draw() {
    const group = byId.get(String(state.group));
    mark();
    article.replaceChildren();
    repaint = [];
    if (!group) return;
    setLimits(group);
    const head = make("div", "group-head");
    head.append(make("h3", "", title(group)), make("span", "note", brief(group)));
    const spread = make("span", "spread");
    for (const [name, by] of [["previous", -1], ["next", 1]]) {
      const button = make("button", "", name);
      button.type = "button";
      const at = shown.findIndex((one) => one.id === group.id) + by;
      button.disabled = at < 0 || at >= shown.length;
      button.addEventListener("click", () => {
        select(shown[at].id);
        article.querySelectorAll(".spread button")[by < 0 ? 0 : 1].focus();
      });
      spread.append(button);
    }
    head.append(spread);
    const prompt = make("div", "prompt");
    prompt.tabIndex = 0;
    prompt.setAttribute("role", "group");
    prompt.setAttribute("aria-label", "prompt");
    Text.render(prompt, group.prompt);
    article.append(head, prompt);
    if (group.answer !== null && group.answer !== undefined) {
      const answer = make("p", "note");
      answer.append("answer: ");
      const code = make("code");
      Text.flat(code, String(group.answer));
      answer.append(code);
      article.append(answer);
    }
    const completions = make("div", "completions");
    group.samples.forEach((sample, index) => completions.append(completion(sample, index)));
    article.append(completions);
  }

  // The values of the strongest colour: the largest of the group under the chosen objective.
  function setLimits(group) {
    const largest = (values) => values.reduce((most, value) => Math.max(most, Math.abs(value ?? 0)), 0);
    state.limits = {
      credit: largest(group.samples.map((sample) => sample.credit?.[state.objective])),
      token: largest(group.samples.flatMap((sample) => (sample.weights ?? []).map((f) => f * sample.advantage))),
    };
  }

  function completion(sample, index) {
    const card = make("section", "completion"), header = make("header");
    card.setAttribute("aria-label", `completion ${index + 1}`);
    card.classList.toggle("target", state.sample === index);
    const mark = outcome(sample);
    if (sample.label) header.append(make("b", "", sample.label));
    if (mark) header.append(make("b", mark, mark === "right" ? "✓ right" : "✗ wrong"));
    if (isRun && sample.reward === null) header.append(make("b", "", "not scored"));
    else if (isRun && (!mark || sample.reward !== sample.grade)) header.append(make(mark ? "span" : "b", "", `reward ${Number(sample.reward.toPrecision(4))}`));
    header.append(make("span", "", `${sample.length} tokens`));
    const link = make("a", "", "#");
    link.href = `#group=${state.group}&sample=${index}`;
    link.setAttribute("aria-label", `link to completion ${index + 1}`);
    if (sample.credit) {
      const weights = make("span"), balance = make("span", "balance"), bar = make("i");
      balance.append(bar);
      header.append(weights, link, balance);
      repaint.push(() => {
        const credit = sample.credit[state.objective], limit = state.limits.credit;
        weights.textContent = `f ${Number((sample.f[state.objective] ?? 0).toPrecision(3))} · f·A ${Tokens.signed(credit)}`;
        const width = limit > 0 ? (50 * Math.abs(credit ?? 0)) / limit : 0;
        bar.style.background = `var(--${credit > 0 ? "positive" : "negative"})`;
        bar.style.left = `${credit > 0 ? 50 : 50 - width}%`;
        bar.style.width = `${width}%`;
      });
    } else {
      header.append(link);
    }
    card.append(header);
    if (sample.facts) {
      const facts = make("dl", "facts");
      for (const [name, value] of sample.facts) {
        const said = make("dd");
        Text.flat(said, value);
        facts.append(make("dt", "", name), said);
      }
      card.append(facts);
    }
    const body = make("div", "body");
    card.append(body);
    if (isRun && state.view === "tokens" && sample.tokens) {
      body.classList.add("tokens");
      repaint.push(Tokens.render(body, sample, state));
    } else {
      body.classList.add("text");
      body.tabIndex = 0;
      body.setAttribute("role", "group");
      body.setAttribute("aria-label", "completion");
      if (isRun && state.view === "tokens") {
        Text.flat(body, sample.text);
        repaint.push(() => {
          body.style.backgroundColor = Tokens.colour(sample.credit[state.objective] ?? 0, state.limits.credit);
        });
      } else {
        Text.render(body, sample.text);
      }
    }
    for (const act of repaint.slice(-2)) act();
    return card;
  }

  function paint() {
    setLimits(byId.get(String(state.group)));
    for (const act of repaint) act();
  }

  // -- the address ----------------------------------------------------------------------------------------------------

  function follow() {
    const parts = new URLSearchParams(location.hash.slice(1));
    if (!parts.has("group")) return false;
    const objective = (data.objectives ?? []).indexOf(parts.get("objective"));
    if (objective >= 0) {
      state.objective = objective;
      objectiveSelect.value = String(objective);
    }
    if (!byId.has(parts.get("group"))) {
      count.textContent = `Group ${parts.get("group")} isn't among the groups on this page.`;
      return false;
    }
    state.group = byId.get(parts.get("group")).id;
    state.sample = parts.has("sample") ? Number(parts.get("sample")) : null;
    draw();
    article.scrollIntoView();
    return true;
  }

  root.append(controls, count, make("div", "viewer"));
  root.querySelector(".viewer").append(list, article);
  update();
  draw();
  follow();
  window.addEventListener("hashchange", follow);
  root.dataset.ready = "true";
})();
