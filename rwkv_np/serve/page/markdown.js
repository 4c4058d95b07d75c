// Parses Markdown as models write it: from a text to blocks. It makes no DOM nodes.
//
// inlines.js parses lines, and render.js makes nodes. An answer grows by a few characters at a time, so two rules
// differ from CommonMark: markup in a line ends with that line, and later text never changes an earlier block (there
// are no link references and no underlined headings). So only the last block has to be parsed again. Mathematics and
// HTML stay text.

const FENCE = /^ {0,3}(`{3,}|~{3,})\s*([^`]*)$/;
const HEADING = /^ {0,3}(#{1,6})[ \t]+(.*?)[ \t]*#*[ \t]*$/;
const RULE = /^ {0,3}([-*_])[ \t]*(?:\1[ \t]*){2,}$/;
const QUOTE = /^ {0,3}> ?/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])([ \t]+|$)/;
const DELIMITERS = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const MATH = { "$$": "$$", "\\[": "\\]" };
const DEEPEST = 10; // nested lists and quotes: deeper ones stay text
// A line that may still become a heading, an item, a fence or a table is shown when more of it is known.
const UNDECIDED = /^ {0,12}(#{1,6}|[-*+_]{1,3}|[`~]{1,3}|\d{1,3}[.)]?|>)?[ \t]*$/;

/**
 * The blocks of a text, in order. Each has `kind`, `start` (its position in the text), `source` (its part of the text)
 * and the fields of its kind: text, lines, level, language, items, blocks, head, rows, aligns.
 */
export function blocks(source, depth = 0) {
    const lines = source.split("\n");
    const starts = [];
    let offset = 0;
    for (const line of lines) {
        starts.push(offset);
        offset += line.length + 1;
    }
    const found = [];
    for (let at = 0; at < lines.length;) {
        if (!lines[at].trim()) {
            at += 1;
            continue;
        }
        const { end, ...block } = _block(lines, at, depth);
        const start = starts[at];
        found.push({ ...block, start, source: lines.slice(at, end).join("\n") });
        at = end;
    }
    return found;
}

/** A growing text without the part of its last line whose meaning is not certain yet. */
export function withoutUndecided(source) {
    const cut = source.lastIndexOf("\n") + 1;
    return UNDECIDED.test(source.slice(cut)) && source.length > cut ? source.slice(0, cut) : source;
}

function _block(lines, at, depth) {
    return _code(lines, at) ?? _heading(lines, at) ?? _rule(lines, at) ?? _math(lines, at)
        ?? (depth < DEEPEST ? _quote(lines, at, depth) ?? _list(lines, at, depth) : null)
        ?? _table(lines, at) ?? _paragraph(lines, at, depth);
}

function _code(lines, at) {
    const match = FENCE.exec(lines[at]);
    if (!match) return null;
    const mark = match[1];
    const close = new RegExp(`^ {0,3}${mark[0] === "`" ? "`" : "~"}{${mark.length},}[ \t]*$`);
    let end = at + 1;
    while (end < lines.length && !close.test(lines[end])) end += 1;
    const indent = /^ */.exec(lines[at])[0].length;
    const body = lines.slice(at + 1, end).map((line) => line.replace(new RegExp(`^ {0,${indent}}`), ""));
    return { kind: "code", language: match[2].trim().split(/\s/)[0], text: body.join("\n"),
        end: Math.min(end + 1, lines.length) };
}

function _heading(lines, at) {
    const match = HEADING.exec(lines[at]);
    return match && { kind: "heading", level: match[1].length, lines: [match[2]], end: at + 1 };
}

function _rule(lines, at) {
    return RULE.test(lines[at]) ? { kind: "rule", end: at + 1 } : null;
}

function _math(lines, at) {
    const begin = lines[at].trimStart().slice(0, 2);
    const close = MATH[begin];
    if (!close) return null;
    const isClosed = (line) => line.trimEnd().endsWith(close);
    let end = at;
    const first = lines[at].trim();
    if (first.length < 4 || !isClosed(first)) {
        // An unclosed formula would swallow the rest: a blank line always ends it.
        end = at + 1;
        while (end < lines.length && !isClosed(lines[end]) && lines[end].trim()) end += 1;
    }
    end = Math.min(end + 1, lines.length);
    return { kind: "math", text: lines.slice(at, end).join("\n").trim(), end };
}

function _quote(lines, at, depth) {
    if (!QUOTE.test(lines[at])) return null;
    let end = at;
    while (end < lines.length && QUOTE.test(lines[end])) end += 1;
    const inner = lines.slice(at, end).map((line) => line.replace(QUOTE, ""));
    return { kind: "quote", blocks: blocks(inner.join("\n"), depth + 1), end };
}

function _list(lines, at, depth) {
    const first = ITEM.exec(lines[at]);
    if (!first || first[1].length > 3) return null;
    const isOrdered = /\d/.test(first[2]);
    const items = [];
    let end = at;
    while (end < lines.length) {
        const match = ITEM.exec(lines[end]);
        if (!match || match[1].length > first[1].length + 1 || /\d/.test(match[2]) !== isOrdered) break;
        if (RULE.test(lines[end])) break;
        const item = _item(lines, end, match);
        items.push({ source: item.text, blocks: blocks(item.text, depth + 1) });
        end = item.end;
        const next = _afterBlank(lines, end);
        if (next !== end && !(next < lines.length && ITEM.test(lines[next]))) break;
        if (next < lines.length && ITEM.test(lines[next])) end = next;
    }
    // Blank lines at the end do not belong to the list.
    while (end > at + 1 && !lines[end - 1].trim()) end -= 1;
    return { kind: "list", isOrdered, first: isOrdered ? parseInt(first[2], 10) : 1, items, end };
}

/** An item's own lines, without the indent of its text. */
function _item(lines, at, match) {
    const indent = match[1].length + 2; // models indent by 2, 3 or 4, whatever the marker's width
    const own = [lines[at].slice(match[0].length)];
    const full = match[0].length;
    let end = at + 1;
    let isFenced = FENCE.test(own[0]);
    for (; end < lines.length; end += 1) {
        const line = lines[end];
        const leading = /^ */.exec(line)[0].length;
        if (!line.trim()) {
            const next = _afterBlank(lines, end);
            if (next >= lines.length || /^ */.exec(lines[next])[0].length < indent) break;
        } else if (leading < indent && !isFenced && (_beginsBlock(lines, end) || !lines[end - 1].trim())) {
            break;
        } else if (leading < indent && isFenced && ITEM.test(line) && leading <= match[1].length) {
            break;
        }
        const text = line.slice(Math.min(leading, full));
        if (FENCE.test(text)) isFenced = !isFenced;
        own.push(text);
    }
    return { text: own.join("\n"), end };
}

function _afterBlank(lines, at) {
    while (at < lines.length && !lines[at].trim()) at += 1;
    return at;
}

function _table(lines, at) {
    if (!lines[at].includes("|") || at + 1 >= lines.length) return null;
    if (!lines[at + 1].includes("-") || !DELIMITERS.test(lines[at + 1])) return null;
    const head = _cells(lines[at]);
    const marks = _cells(lines[at + 1]);
    if (marks.length !== head.length) return null;
    let end = at + 2;
    while (end < lines.length && lines[end].trim() && lines[end].includes("|")) end += 1;
    const rows = lines.slice(at + 2, end).map((line) => head.map((_, i) => _cells(line)[i] ?? ""));
    const aligns = marks.map((mark) => (mark.endsWith(":") ? (mark.startsWith(":") ? "center" : "end") : "start"));
    return { kind: "table", head, rows, aligns, end };
}

function _cells(line) {
    const inner = line.trim().replace(/^\|/, "").replace(/(^|[^\\])\|$/, "$1");
    return inner.split(/(?<!\\)\|/).map((cell) => cell.trim().replaceAll("\\|", "|"));
}

function _paragraph(lines, at, depth) {
    let end = at + 1;
    while (end < lines.length && lines[end].trim() && !_beginsBlock(lines, end)) end += 1;
    return { kind: "paragraph", lines: lines.slice(at, end).flatMap(_pieces), end };
}

/** Whether a block starts here even without a blank line before it. */
function _beginsBlock(lines, at) {
    const line = lines[at];
    const item = ITEM.exec(line);
    return FENCE.test(line) || HEADING.test(line) || QUOTE.test(line) || RULE.test(line)
        || (item !== null && item[3] !== "") || _table(lines, at) !== null || line.trimStart().startsWith("$$");
}

const LONGEST = 2000;
const SENTENCE_ENDS = ["。", "！", "？", ". ", "，", " "]; // the better ones first

/**
 * Split a line into pieces that are parsed separately: the time for one more token must not grow with a very long
 * line. A piece is { text, isNext }, where isNext means that it continues the previous piece.
 */
function _pieces(line) {
    const found = [];
    let rest = line.trim();
    while (rest.length > LONGEST) {
        const ends = SENTENCE_ENDS.map((mark) => rest.lastIndexOf(mark, LONGEST - 1) + mark.length);
        const size = ends.find((end) => end > LONGEST / 2) ?? LONGEST;
        found.push({ text: rest.slice(0, size), isNext: found.length > 0 });
        rest = rest.slice(size);
    }
    found.push({ text: rest, isNext: found.length > 0 });
    return found;
}
