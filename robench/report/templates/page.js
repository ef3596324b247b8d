"use strict";
(() => {
  const words = new URLSearchParams(location.hash.includes("=") || location.hash === "#desc" ? location.hash.slice(1) : "");
  const make = (tag, text, attributes) => {
    const element = Object.assign(document.createElement(tag), {textContent: text || ""});
    for (const [name, value] of Object.entries(attributes || {})) element.setAttribute(name, value);
    return element;
  };
  const keep = () => {
    const text = words.toString().replace(/=(?=&|$)/g, "");
    history.replaceState(null, "", text ? "#" + text : location.pathname + location.search);
  };
  const put = (name, value) => { if (value === null) words.delete(name); else words.set(name, value); };

  const dark = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : dark.matches);
  const theme = make("button", "", {type: "button", id: "theme"});
  const showTheme = () => {
    const asked = words.get("theme");
    if (asked === "dark" || asked === "light") root.dataset.theme = asked; else delete root.dataset.theme;
    theme.textContent = isDark() ? "Light colours" : "Dark colours";
  };
  theme.addEventListener("click", () => { put("theme", isDark() ? "light" : "dark"); keep(); showTheme(); });
  dark.addEventListener("change", showTheme);
  document.querySelector("header").append(theme);

  const shows = [showTheme];
  const tables = [...document.querySelectorAll("table[data-name]")];
  tables.forEach((table, place) => {
    const before = place ? table.dataset.name + "." : "";
    const heads = [...table.tHead.rows[0].cells];
    const body = table.tBodies[0];
    const rows = body ? [...body.rows] : [];
    const columnOf = (key) => {
      const wanted = (key || "").toLowerCase();
      const at = heads.findIndex((head) => head.dataset.key === wanted);
      return at >= 0 || !wanted ? at : heads.findIndex((head) => head.dataset.key.startsWith(wanted));
    };
    const tools = make("div", "", {class: "tools", role: "search", "aria-label": "rows and columns of " + table.dataset.name});
    const label = make("label", "Filter ");
    const filter = make("input", "", {type: "search", id: table.id + "-filter"});
    const count = make("span", "", {class: "count", role: "status"});
    label.append(filter);
    tools.append(label, count);

    const boxes = heads.slice(1).map((head) => {
      const box = make("input", "", {type: "checkbox"});
      box.checked = !("aside" in head.dataset);
      return box;
    });
    const usual = boxes.map((box) => box.checked);
    if (boxes.length > 1) {
      const chooser = make("details");
      const fields = make("fieldset");
      boxes.forEach((box, at) => {
        const line = make("label");
        line.append(box, " " + heads[at + 1].textContent);
        fields.append(line);
        box.addEventListener("change", () => {
          const chosen = boxes.map((other, k) => (other.checked ? heads[k + 1].dataset.key : "")).filter(Boolean);
          put(before + "columns", boxes.every((other, k) => other.checked === usual[k]) ? null : chosen.join(","));
          keep();
          show();
        });
      });
      chooser.append(make("summary", "Columns"), fields);
      tools.append(chooser);
    }

    const sort = (at, descending) => {
      const value = (row) => {
        const cell = row.cells[at];
        const text = cell.firstChild ? cell.textContent.trim() : "";
        const order = cell.dataset.order !== undefined ? Number(cell.dataset.order) : /^[-+.\d]/.test(text) ? parseFloat(text) : NaN;
        return {text, order, missing: text === "" || text === "\u2013"};
      };
      const found = rows.map((row, k) => ({row, k, ...value(row)}));
      const numeric = found.every((one) => one.missing || !Number.isNaN(one.order));
      const sign = descending ? -1 : 1;
      found.sort((a, b) => a.missing - b.missing
        || sign * (numeric ? a.order - b.order || 0 : a.text.localeCompare(b.text, "en", {numeric: true})) || a.k - b.k);
      body.append(...found.map((one) => one.row));
    };
    const show = () => {
      const at = columnOf(words.get(before + "sort"));
      const descending = words.has(before + "desc");
      heads.forEach((head, k) => head.setAttribute("aria-sort", k !== at ? "none" : descending ? "descending" : "ascending"));
      if (at >= 0) sort(at, descending); else if (body) body.append(...rows);
      const asked = words.get(before + "filter") || "";
      if (filter.value !== asked) filter.value = asked;
      const parts = asked.toLowerCase().split(/\s+/).filter(Boolean);
      for (const row of rows) row.hidden = !parts.every((part) => row.textContent.toLowerCase().includes(part));
      const left = rows.filter((row) => !row.hidden).length;
      count.textContent = left === rows.length ? rows.length + " rows" : left + " of " + rows.length + " rows";
      const chosen = words.has(before + "columns") ? words.get(before + "columns").split(",") : null;
      boxes.forEach((box, k) => {
        box.checked = chosen ? chosen.includes(heads[k + 1].dataset.key) : usual[k];
        heads[k + 1].hidden = !box.checked;
        for (const row of rows) row.cells[k + 1].hidden = !box.checked;
      });
    };
    filter.addEventListener("input", () => { put(before + "filter", filter.value || null); keep(); show(); });
    heads.forEach((head, at) => {
      const button = make("button", head.textContent, {type: "button"});
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const now = head.getAttribute("aria-sort");
        const first = head.dataset.better === "1" ? "descending" : "ascending";
        const next = now === "none" ? first : now === "ascending" ? "descending" : "ascending";
        put(before + "sort", head.dataset.key);
        put(before + "desc", next === "descending" ? "" : null);
        keep();
        show();
      });
    });
    table.parentElement.before(tools);
    shows.push(show);
  });

  for (const link of document.querySelectorAll("a[href^='#']")) {
    link.addEventListener("click", (event) => {
      const target = document.getElementById(link.hash.slice(1));
      if (!target) return;
      event.preventDefault();
      if (!target.hasAttribute("tabindex")) target.setAttribute("tabindex", "-1");
      target.focus();
      target.scrollIntoView();
      put("at", target.id === "content" ? null : target.id);
      keep();
    });
  }
  const showAll = () => { for (const show of shows) show(); };
  showAll();
  const there = document.getElementById(words.get("at") || "");
  if (there) there.scrollIntoView();
  addEventListener("hashchange", () => {
    for (const name of [...words.keys()]) words.delete(name);
    if (location.hash.includes("=")) for (const [name, value] of new URLSearchParams(location.hash.slice(1))) words.set(name, value);
    showAll();
  });
  addEventListener("beforeprint", () => { for (const one of document.querySelectorAll("details")) one.open = true; });
})();
