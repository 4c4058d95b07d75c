// Renders blocks of Markdown as DOM nodes, again and again while a text grows.
//
// A block with unchanged source is not touched, and if a block has grown, only its last part is rendered again. So a
// selection stays, nothing flickers, and a token costs the same at the end of a long answer.

import { copyButton, el } from "./dom.js";
import { inlines } from "./inlines.js";
import { t } from "./language.js";
import { blocks, withoutUndecided } from "./markdown.js";

/** A text in Markdown, shown in `node`. */
export class MarkdownView {
    constructor() {
        this.node = el("div", { class: "markdown" });
        this._views = new Blocks(this.node);
        this._start = 0; // the position of the last block in the text
        this._text = "";
    }

    /** Show `text`; `isOpen`: more text may come. */
    update(text, isOpen) {
        const grows = text.startsWith(this._text);
        const from = grows ? this._start : 0;
        const found = blocks((isOpen ? withoutUndecided(text) : text).slice(from));
        this._views.update(found, grows ? Math.max(0, this._views.length - 1) : 0, isOpen);
        if (found.length) this._start = from + found.at(-1).start;
        this._text = text;
    }
}

/** The children of a node that are blocks. */
class Blocks {
    constructor(parent) {
        this._parent = parent;
        this._views = [];
    }

    get length() {
        return this._views.length;
    }

    /** Show `found` in place of all blocks from `first` on. */
    update(found, first, isOpen) {
        found.forEach((block, i) => {
            const old = this._views[first + i];
            const isLast = isOpen && i === found.length - 1;
            if (old?.kind === block.kind && (old.fits?.(block) ?? true)) {
                if (old.source !== block.source || old.isOpen !== isLast) old.update(block, isLast);
            } else {
                const made = new KINDS[block.kind](block);
                made.kind = block.kind;
                made.update(block, isLast);
                if (old) old.node.replaceWith(made.node);
                else this._parent.append(made.node);
                this._views[first + i] = made;
            }
            Object.assign(this._views[first + i], { source: block.source, isOpen: isLast });
        });
        for (const view of this._views.splice(first + found.length)) view.node.remove();
    }
}

// A browser repeats the layout of a whole paragraph when its end grows, so a very long one is split into boxes.
const LINES = 30;

/** Lines of a paragraph or a heading. */
class Lines {
    constructor(block) {
        // The page's own headings are h1 and h2.
        this.node = el(block.kind === "heading" ? `h${Math.min(block.level + 2, 6)}` : "p");
        this._lines = [];
        this._level = block.level;
    }

    fits(block) {
        return block.level === this._level;
    }

    update(block, isOpen) {
        const lines = block.lines.map((line) => (typeof line === "string" ? { text: line, isNext: false } : line));
        let same = 0;
        const last = lines.length - 1;
        while (same < last && this._lines[same]?.text === lines[same].text && !this._lines[same].isOpen) same += 1;
        for (let i = same; i < lines.length; i += 1) this._line(i, lines[i], isOpen && i === last);
        for (const line of this._lines.splice(lines.length)) line.nodes.forEach((node) => node.remove());
    }

    _line(i, { text, isNext }, isOpen) {
        const parts = inlines(text, isOpen);
        const isPlain = parts.length === 1 && typeof parts[0] === "string";
        const old = this._lines[i];
        if (old?.plain && isPlain) {
            if (parts[0].startsWith(old.plain.data)) old.plain.appendData(parts[0].slice(old.plain.data.length));
            else old.plain.data = parts[0];
            Object.assign(old, { text, isOpen });
            return;
        }
        // The following lines are rendered again too, since they come after this one.
        for (const line of this._lines.splice(i)) line.nodes.forEach((node) => node.remove());
        const nodes = parts.map(inlineNode);
        const plain = isPlain ? nodes[0] : null;
        const box = this._box(i, isNext);
        if (box === null) {
            const made = el("span", { class: "piece" }, ...nodes);
            this.node.append(made);
            this._lines.push({ text, isOpen, nodes: [made], plain, box: made });
            return;
        }
        if (i > 0) nodes.unshift(el("br"));
        box.append(...nodes);
        this._lines.push({ text, isOpen, nodes, plain, box });
    }

    /** The box for a line's nodes: the previous line's box, or null for a new box. */
    _box(i, isNext) {
        if (i === 0) return this.node;
        return isNext || i % LINES === 0 ? null : this._lines[i - 1].box;
    }
}

/** The node for a part of a line. */
export function inlineNode(part) {
    if (typeof part === "string") return document.createTextNode(part);
    if (part.kind === "code") return el("code", {}, part.text);
    const inner = part.parts.map(inlineNode);
    if (part.kind === "both") return el("strong", {}, el("em", {}, ...inner));
    if (part.kind !== "link") return el(part.kind, {}, ...inner);
    return el("a", { href: part.href, rel: "noopener noreferrer", target: "_blank" }, ...inner);
}

const CHUNK = 4000; // characters: a browser repeats the layout of a whole text when its end grows

/** Code, with its language and a copy button. */
class Code {
    constructor(block) {
        this._text = "";
        this._label = el("span", {}, "");
        this._code = el("code");
        const copy = copyButton(t("copyCode"), t("copied"), () => this._text);
        this.node = el("div", { class: "code" }, el("div", { class: "bar" }, this._label, copy),
            el("pre", { tabindex: "0", translate: "no", dir: "ltr" }, this._code));
    }

    update(block) {
        this._label.textContent = block.language;
        if (block.text.startsWith(this._text)) {
            this._append(block.text.slice(this._text.length));
        } else {
            this._code.replaceChildren();
            this._append(block.text);
        }
        this._text = block.text;
    }

    _append(text) {
        const last = this._code.lastChild;
        if (!last) {
            this._code.append(el("span", {}, text));
        } else if (last.textContent.length < CHUNK || !last.textContent.endsWith("\n")) {
            last.firstChild ? last.firstChild.appendData(text) : last.append(text);
        } else {
            this._code.append(el("span", {}, text));
        }
    }
}

class List {
    constructor(block) {
        this._key = _listKey(block);
        this.node = el(block.isOrdered ? "ol" : "ul", { start: block.first === 1 ? null : block.first });
        this._items = [];
    }

    fits(block) {
        return _listKey(block) === this._key;
    }

    update(block, isOpen) {
        block.items.forEach((item, i) => {
            const isLast = isOpen && i === block.items.length - 1;
            const old = this._items[i];
            if (old?.source === item.source && old.isOpen === isLast) return;
            if (!old) this.node.append((this._items[i] = this._item()).node);
            const view = this._items[i];
            view.blocks.update(item.blocks, 0, isLast);
            Object.assign(view, { source: item.source, isOpen: isLast });
        });
        for (const item of this._items.splice(block.items.length)) item.node.remove();
    }

    _item() {
        const node = el("li");
        return { node, blocks: new Blocks(node) };
    }
}

function _listKey(block) {
    return block.isOrdered ? `ol ${block.first}` : "ul";
}

class Quote {
    constructor() {
        this.node = el("blockquote");
        this._blocks = new Blocks(this.node);
    }

    update(block, isOpen) {
        this._blocks.update(block.blocks, 0, isOpen);
    }
}

class Table {
    constructor(block) {
        const cell = (text, i) => el("th", { scope: "col", class: block.aligns[i] }, ...inlines(text).map(inlineNode));
        this._body = el("tbody");
        this._rows = [];
        this._key = _tableKey(block);
        const head = el("thead", {}, el("tr", {}, ...block.head.map(cell)));
        this.node = el("div", { class: "wide", tabindex: "0" }, el("table", {}, head, this._body));
    }

    fits(block) {
        return _tableKey(block) === this._key;
    }

    update(block, isOpen) {
        block.rows.forEach((row, i) => {
            const source = row.join("|");
            if (this._rows[i]?.source === source) return;
            const cells = row.map((text, at) => el("td", { class: block.aligns[at] },
                ...inlines(text, isOpen && i === block.rows.length - 1).map(inlineNode)));
            const node = el("tr", {}, ...cells);
            if (this._rows[i]) this._rows[i].node.replaceWith(node);
            else this._body.append(node);
            this._rows[i] = { node, source };
        });
        for (const row of this._rows.splice(block.rows.length)) row.node.remove();
    }
}

function _tableKey(block) {
    return [...block.head, ...block.aligns].join("|");
}

class Rule {
    constructor() {
        this.node = el("hr");
    }

    update() {}
}

class MathText {
    constructor() {
        this.node = el("p", { class: "math", translate: "no" });
    }

    update(block) {
        this.node.textContent = block.text;
    }
}

const KINDS = { paragraph: Lines, heading: Lines, code: Code, list: List, quote: Quote, table: Table, rule: Rule,
    math: MathText };
