// Runs in the page: finds elements, waits until they are ready, acts on them or reads
// them. One round trip per verb. Both back ends run this file, so that locators and
// reasons are the same on both. Resolves to an element (`want: "element"`), or to
// {value}, or to {reason, kind}.
async (cmd) => {
  const until = performance.now() + cmd.timeout;
  const norm = (s) => (s || "").replace(/[\s\u00a0\u200b]+/g, " ").trim();
  const frame = () => new Promise((go) => {
    // A hidden tab gets no animation frames; the timer keeps it alive.
    let timer = setTimeout(go, 100);
    requestAnimationFrame(() => { clearTimeout(timer); go(); });
  });
  const describe = (el) => {
    if (!el || !el.tagName) return "<nothing>";
    let out = el.tagName.toLowerCase();
    if (el.id) out += "#" + el.id;
    else if (typeof el.className === "string" && el.className.trim())
      out += "." + el.className.trim().split(/\s+/).slice(0, 2).join(".");
    return "<" + out + ">";
  };
  const matcher = (want, exact) => {
    if (want && typeof want === "object") {
      const re = new RegExp(want.re, want.flags);
      return (s) => re.test(s);
    }
    const w = norm(want);
    if (exact) return (s) => norm(s) === w;
    return (s) => norm(s).toLowerCase().includes(w.toLowerCase());
  };
  // Document order through open shadow roots.
  const roots = (root) => {
    const all = [root];
    for (let i = 0; i < all.length; i++)
      for (const el of all[i].querySelectorAll("*"))
        if (el.shadowRoot) all.push(el.shadowRoot);
    if (root.shadowRoot) all.push(root.shadowRoot);
    return all;
  };
  const query = (root, css) => roots(root).flatMap((r) => [...r.querySelectorAll(css)]);
  const parent = (el) => el.parentElement || (el.getRootNode() instanceof ShadowRoot
    ? el.getRootNode().host : null);
  const contains = (outer, inner) => {
    for (let el = inner; el; el = parent(el)) if (el === outer) return true;
    return false;
  };
  const hiddenWhy = (el) => {
    for (let up = el; up; up = parent(up)) {
      if (getComputedStyle(up).display === "none")
        return "hidden by display: none" + (up === el ? "" : " of " + describe(up));
    }
    const style = getComputedStyle(el);
    if (style.visibility !== "visible") return "hidden by visibility: " + style.visibility;
    if (style.display === "contents") return "";
    const box = el.getBoundingClientRect();
    if (box.width === 0 || box.height === 0)
      return "hidden: its size is " + Math.round(box.width) + " x " + Math.round(box.height);
    return "";
  };
  const notForReaders = (el) => {
    for (let up = el; up; up = parent(up)) {
      if (up.getAttribute("aria-hidden") === "true" || up.inert) return true;
      if (getComputedStyle(up).display === "none") return true;
    }
    return getComputedStyle(el).visibility !== "visible";
  };
  const inputRoles = { button: "button", submit: "button", reset: "button",
    image: "button", checkbox: "checkbox", radio: "radio", range: "slider",
    number: "spinbutton", search: "searchbox", email: "textbox", tel: "textbox",
    text: "textbox", url: "textbox", "": "textbox" };
  const tagRoles = { article: "article", aside: "complementary", button: "button",
    datalist: "listbox", dd: "definition", details: "group", dialog: "dialog",
    dt: "term", fieldset: "group", figure: "figure", footer: "contentinfo",
    form: "form", h1: "heading", h2: "heading", h3: "heading", h4: "heading",
    h5: "heading", h6: "heading", header: "banner", hr: "separator", li: "listitem",
    main: "main", menu: "list", meter: "meter", nav: "navigation", ol: "list",
    optgroup: "group", option: "option", output: "status", p: "paragraph",
    progress: "progressbar", search: "search", section: "region", summary: "button",
    table: "table", tbody: "rowgroup", td: "cell", textarea: "textbox",
    tfoot: "rowgroup", th: "columnheader", thead: "rowgroup", tr: "row", ul: "list" };
  const roleOf = (el) => {
    const explicit = norm(el.getAttribute("role")).split(" ")[0];
    if (explicit) return explicit;
    const tag = el.tagName.toLowerCase();
    if (tag === "input") {
      const type = (el.getAttribute("type") || "").toLowerCase();
      if (el.list && inputRoles[type] === "textbox") return "combobox";
      return inputRoles[type] || (type in inputRoles ? "textbox" : "");
    }
    if (tag === "a" || tag === "area") return el.hasAttribute("href") ? "link" : "";
    if (tag === "img") return el.getAttribute("alt") === "" ? "presentation" : "img";
    if (tag === "svg") return "img";
    if (tag === "select") return el.multiple || el.size > 1 ? "listbox" : "combobox";
    if (tag === "th" && el.scope === "row") return "rowheader";
    if ((tag === "section" || tag === "form") && !el.hasAttribute("aria-label") &&
        !el.hasAttribute("aria-labelledby")) return "";
    return tagRoles[tag] || "";
  };
  const byIds = (el, attr) => norm(el.getAttribute(attr)).split(" ").filter(Boolean)
    .map((id) => el.getRootNode().getElementById(id)).filter(Boolean);
  const contentName = (node, seen) => {
    let out = "";
    const kids = node.shadowRoot ? node.shadowRoot.childNodes : node.childNodes;
    for (const kid of kids) {
      if (kid.nodeType === 3) out += kid.data;
      else if (kid.nodeType === 1 && !["SCRIPT", "STYLE"].includes(kid.tagName)) {
        const style = getComputedStyle(kid);
        if (style.display === "none" || kid.getAttribute("aria-hidden") === "true") continue;
        const inner = nameOf(kid, seen, true);
        out += style.display.startsWith("inline") ? inner : " " + inner + " ";
      }
    }
    return out;
  };
  const nameOf = (el, seen = new Set(), nested = false) => {
    if (seen.has(el)) return "";
    seen.add(el);
    const labelled = nested ? [] : byIds(el, "aria-labelledby");
    if (labelled.length)
      return norm(labelled.map((one) => nameOf(one, seen, true)).join(" "));
    const aria = norm(el.getAttribute("aria-label"));
    if (aria) return aria;
    const tag = el.tagName.toLowerCase();
    const type = (el.getAttribute("type") || "").toLowerCase();
    if (tag === "input" && ["submit", "reset", "button"].includes(type))
      return norm(el.value || (type === "submit" ? "Submit" : type === "reset" ? "Reset" : ""));
    if (tag === "img" || tag === "area" || (tag === "input" && type === "image")) {
      const alt = norm(el.getAttribute("alt"));
      if (alt) return alt;
    }
    if (el.labels && el.labels.length && !nested && tag !== "button")
      return norm([...el.labels].map((one) => contentName(one, new Set(seen))).join(" "));
    if (tag === "fieldset" || tag === "table" || tag === "figure") {
      const head = el.querySelector("legend, caption, figcaption");
      if (head) return norm(contentName(head, seen));
      if (!nested) return norm(el.getAttribute("title"));
    }
    if (tag === "svg") {
      const title = el.querySelector("title");
      return norm(title ? title.textContent : "");
    }
    if (!["input", "textarea", "select"].includes(tag)) {
      const text = norm(contentName(el, seen));
      const fromText = nested || ["button", "link", "heading", "option", "tab", "cell",
        "columnheader", "rowheader", "row", "menuitem", "menuitemcheckbox",
        "menuitemradio", "checkbox", "radio", "switch", "treeitem", "tooltip",
        "listitem", "gridcell"].includes(roleOf(el));
      if (text && fromText) return text;
    }
    return norm(el.getAttribute("title")) || norm(el.getAttribute("placeholder"));
  };
  const textOf = (el) => {
    const tag = el.tagName;
    if (tag === "INPUT" && ["submit", "button", "reset"].includes(el.type)) return el.value;
    return el.textContent + (el.shadowRoot ? " " + el.shadowRoot.textContent : "");
  };
  const finders = {
    css: (root, s) => query(root, s.value),
    xpath: (root, s) => {
      const found = document.evaluate(s.value, root, null, 7, null);
      return Array.from({ length: found.snapshotLength }, (_, i) => found.snapshotItem(i))
        .filter((node) => node.nodeType === 1);
    },
    testid: (root, s) => query(root, "[" + cmd.testid + "]")
      .filter((el) => matcher(s.value, true)(el.getAttribute(cmd.testid))),
    role: (root, s) => {
      const name = s.name == null ? null : matcher(s.name, s.exact);
      return query(root, "*").filter((el) => roleOf(el) === s.value && !notForReaders(el)
        && (!name || name(nameOf(el))));
    },
    text: (root, s) => {
      const is = matcher(s.value, s.exact);
      const skip = ["SCRIPT", "STYLE", "NOSCRIPT", "HEAD", "TITLE", "TEMPLATE", "HTML", "BODY"];
      const all = query(root, "*").filter((el) => !skip.includes(el.tagName) && is(textOf(el)));
      const outer = new Set();
      for (const el of all) for (let up = parent(el); up; up = parent(up)) outer.add(up);
      return all.filter((el) => !outer.has(el));
    },
    label: (root, s) => {
      const is = matcher(s.value, s.exact);
      return query(root, "input, textarea, select, button, meter, output, progress, [aria-label], [aria-labelledby], [contenteditable]")
        .filter((el) => el.type !== "hidden" && (
          (el.labels && [...el.labels].some((one) => is(norm(contentName(one, new Set([el]))))))
          || (el.hasAttribute("aria-label") && is(el.getAttribute("aria-label")))
          || byIds(el, "aria-labelledby").some((one) => is(one.textContent))));
    },
    placeholder: (root, s) => query(root, "[placeholder]")
      .filter((el) => matcher(s.value, s.exact)(el.getAttribute("placeholder"))),
    title: (root, s) => query(root, "[title]")
      .filter((el) => matcher(s.value, s.exact)(el.getAttribute("title"))),
    alt: (root, s) => query(root, "[alt]")
      .filter((el) => matcher(s.value, s.exact)(el.getAttribute("alt"))),
  };
  const find = () => {
    let found = [document];
    for (const step of cmd.steps) {
      if (step.kind === "nth") {
        const at = step.value < 0 ? found.length + step.value : step.value;
        found = found[at] ? [found[at]] : [];
      } else if (step.kind === "filter") {
        if (step.has_text != null) {
          const is = matcher(step.has_text, false);
          found = found.filter((el) => is(textOf(el)));
        }
        if (step.visible != null)
          found = found.filter((el) => !hiddenWhy(el) === step.visible);
      } else {
        const next = new Set();
        for (const root of found)
          for (const el of finders[step.kind](root, step)) next.add(el);
        found = [...next];
      }
    }
    return found[0] === document ? [] : found;
  };
  const candidates = () => {
    // What the author may have meant: names that the page does have.
    const step = cmd.steps[cmd.steps.length - 1];
    let names = [];
    let what = "";
    if (step.kind === "role" && step.name != null) {
      names = query(document, "*").filter((el) => roleOf(el) === step.value &&
        !notForReaders(el)).map((el) => nameOf(el));
      what = step.value;
    } else if (step.kind === "testid") {
      names = query(document, "[" + cmd.testid + "]").map((el) => el.getAttribute(cmd.testid));
      what = "test id";
    } else if (step.kind === "label") {
      names = query(document, "label").map((el) => norm(el.textContent));
      what = "label";
    } else return "";
    names = [...new Set(names.filter(Boolean))].slice(0, 5);
    return names.length ? "; the page has " + what + " " + names.map((n) => "'" +
      n.slice(0, 40) + "'").join(", ") : "; the page has no " + what;
  };
  const hitAt = (x, y) => {
    let hit = document.elementFromPoint(x, y);
    while (hit && hit.shadowRoot) {
      const inner = hit.shadowRoot.elementFromPoint(x, y);
      if (!inner || inner === hit) break;
      hit = inner;
    }
    return hit;
  };
  const coveredWhy = (el) => {
    let rect = el.getClientRects()[0];
    if (!rect) return "hidden: it has no box";
    const middle = (r) => [r.left + r.width / 2, r.top + r.height / 2];
    let [x, y] = middle(rect);
    if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight) {
      el.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      [x, y] = middle(el.getClientRects()[0]);
      if (x < 0 || y < 0 || x >= innerWidth || y >= innerHeight)
        return "outside of the viewport";
    }
    const hit = hitAt(x, y);
    if (!hit) return "outside of the viewport";
    const label = hit.closest("label");
    if (!(contains(el, hit) || (label && label.control === el)))
      return "covered by " + describe(hit);
    try {  // an overlay of the page around this frame
      let view = window;
      while (view.frameElement) {
        const box = view.frameElement.getBoundingClientRect();
        x += box.left + view.frameElement.clientLeft;
        y += box.top + view.frameElement.clientTop;
        const over = view.parent.document.elementFromPoint(x, y);
        if (over && over !== view.frameElement) return "covered by " + describe(over);
        view = view.parent;
      }
    } catch (e) { /* a parent of another origin cannot be asked */ }
    return "";
  };
  const disabled = (el) => el.matches(":disabled") ||
    !!el.closest("[aria-disabled=true]");
  const readonly = (el) => el.readOnly || el.getAttribute("aria-readonly") === "true";
  const boxKey = (el) => {
    const r = el.getBoundingClientRect();
    return [r.left, r.top, r.width, r.height].join();
  };
  let lastBox = null;
  let lastEl = null;
  const notReady = (el) => {
    const need = cmd.need || [];
    if (need.includes("visible")) {
      const why = hiddenWhy(el);
      if (why) return why;
    }
    if (need.includes("enabled") && disabled(el)) return "disabled";
    if (need.includes("editable") && readonly(el)) return "read-only";
    if (need.includes("stable")) {
      const box = boxKey(el);
      const same = el === lastEl && box === lastBox;
      lastEl = el; lastBox = box;
      if (!same) return "moving";
    }
    if (need.includes("receives")) return coveredWhy(el);
    return "";
  };
  const checkedOf = (el) => el.matches("input[type=checkbox], input[type=radio]")
    ? el.checked : el.getAttribute("aria-checked") === "true";
  const fire = (el, ...names) => names.forEach((name) => el.dispatchEvent(
    name === "input" ? new InputEvent(name, { bubbles: true, composed: true })
      : new Event(name, { bubbles: true })));
  const acts = {
    element: (el) => el,
    fill: (el) => {
      el.focus();
      if (el.isContentEditable) {
        getSelection().selectAllChildren(el);
        if (cmd.text) document.execCommand("insertText", false, cmd.text);
        else document.execCommand("delete");
        return { value: true };
      }
      if (!("value" in el) || el.matches("input[type=file], input[type=checkbox], input[type=radio], select, button"))
        return { reason: describe(el) + " cannot be filled", kind: "wrong" };
      const proto = el.tagName === "TEXTAREA" ? HTMLTextAreaElement : HTMLInputElement;
      const set = Object.getOwnPropertyDescriptor(proto.prototype, "value").set;
      set.call(el, cmd.text);
      const same = el.value === cmd.text || !["date", "time", "datetime-local", "month",
        "week", "number", "color", "range"].includes(el.type);
      if (!same) return { reason: "'" + cmd.text + "' is no value for an input of type " + el.type, kind: "wrong" };
      fire(el, "input", "change");
      return { value: true };
    },
    select: (el) => {
      if (el.tagName !== "SELECT") return { reason: describe(el) + " is not a <select>", kind: "wrong" };
      const options = [...el.options];
      const chosen = cmd.options.map((want) => options.find((o) => o.value === want)
        || options.find((o) => norm(o.label) === norm(want)));
      const missing = cmd.options.filter((_, i) => !chosen[i]);
      if (missing.length) return { reason: "no option '" + missing[0] + "'; it has " +
        options.map((o) => "'" + norm(o.label) + "'").join(", ") };
      if (chosen.length > 1 && !el.multiple)
        return { reason: describe(el) + " takes one option", kind: "wrong" };
      if (chosen.some((o) => o.disabled)) return { reason: "the option is disabled" };
      options.forEach((o) => { o.selected = chosen.includes(o); });
      fire(el, "input", "change");
      return { value: chosen.map((o) => o.value) };
    },
    focus: (el) => { el.focus(); return { value: true }; },
    blur: (el) => { el.blur(); return { value: true }; },
    scroll: (el) => {
      el.scrollIntoView({ block: "center", inline: "center", behavior: "instant" });
      return { value: true };
    },
    checked: (el) => ({ value: checkedOf(el) }),
    text: (el) => ({ value: norm(el.innerText === undefined ? textOf(el) : el.innerText) }),
    html: (el) => ({ value: el.innerHTML }),
    value: (el) => ("value" in el ? { value: el.tagName === "SELECT" && el.multiple
      ? [...el.selectedOptions].map((o) => o.value).join(", ") : String(el.value) }
      : { reason: describe(el) + " has no value", kind: "wrong" }),
    attribute: (el) => ({ value: el.getAttribute(cmd.name) }),
    enabled: (el) => ({ value: !disabled(el) }),
    editable: (el) => ({ value: !disabled(el) && !readonly(el) }),
    focused: (el) => ({ value: el === el.getRootNode().activeElement }),
    style: (el) => ({ value: getComputedStyle(el).getPropertyValue(cmd.name) }),
    box: (el) => {
      const r = el.getBoundingClientRect();
      return { value: { x: r.x, y: r.y, width: r.width, height: r.height } };
    },
  };
  const many = {
    count: (all) => all.length,
    texts: (all) => all.map((el) => norm(el.innerText)),
    visible: (all) => all.some((el) => !hiddenWhy(el)),
  };
  const show = (v) => typeof v === "string" ? "'" + (v.length > 120 ? v.slice(0, 120) + "..." : v) + "'" : String(v);
  const expectOne = (key, want, all) => {
    // Returns nothing if it holds, else what is the case instead.
    if (key === "count") return all.length === want ? null : "it is " + all.length;
    if (key === "visible" || key === "hidden") {
      const shown = all.length > 1 ? null : all.length === 1 && !hiddenWhy(all[0]);
      if (shown === null) return "strict: " + all.length + " elements match";
      const wanted = key === "visible" ? want : !want;
      if (shown === wanted) return null;
      return shown ? "it is visible" : all.length ? "it is " + hiddenWhy(all[0]) : "no element matches" + candidates();
    }
    if (key === "texts") {
      const got = many.texts(all);
      return got.length === want.length && got.every((t, i) => matcher(want[i], true)(t))
        ? null : "they are " + got.map(show).join(", ");
    }
    if (!all.length) return "no element matches" + candidates();
    if (all.length > 1) return "strict: " + all.length + " elements match";
    const el = all[0];
    const simple = { text: [acts.text, true], contains: [acts.text, false],
      value: [acts.value, true], checked: [acts.checked], enabled: [acts.enabled],
      editable: [acts.editable], focused: [acts.focused] };
    if (key in simple) {
      const [read, exact] = simple[key];
      const got = read(el);
      if (got.reason) return got.reason;
      const holds = exact === undefined ? got.value === want : matcher(want, exact)(got.value);
      return holds ? null : "it is " + show(got.value);
    }
    for (const [name, value] of Object.entries(want)) {  // attribute, style
      const got = key === "attribute" ? el.getAttribute(name)
        : getComputedStyle(el).getPropertyValue(name);
      const holds = value === null ? got === null : got !== null && matcher(value, true)(got);
      if (!holds) return name + " is " + (got === null ? "absent" : show(got));
    }
    return null;
  };
  let reason = "";
  for (;;) {
    const all = find();
    const late = performance.now() >= until;
    if (cmd.act === "expect") {
      const failures = Object.entries(cmd.expect)
        .map(([key, want]) => [key, expectOne(key, want, all)])
        .filter(([, why]) => why !== null);
      if (!failures.length) return { value: true };
      if (late) return { reason: "expected", failures };
    } else if (cmd.act in many) {
      return { value: many[cmd.act](all) };
    } else {
      if (all.length > 1) {
        reason = "strict: " + all.length + " elements match: " +
          all.slice(0, 3).map(describe).join(", ") + (all.length > 3 ? ", ..." : "");
      } else if (!all.length) {
        reason = null;  // the candidates are looked up only when it is too late
      } else {
        reason = notReady(all[0]);
        if (!reason) {
          const done = acts[cmd.act](all[0]);
          if (!done.reason || done.kind === "wrong") return done;
          reason = done.reason;
        }
      }
      if (late && reason !== "moving")
        return { reason: reason === null ? "no element matches" + candidates() : reason };
      if (performance.now() >= until + 250) return { reason };
    }
    await frame();
  }
}
