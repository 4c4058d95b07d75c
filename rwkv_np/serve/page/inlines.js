// Splits a line of Markdown into parts: bold, code, links and the text between them. It makes no DOM nodes.
//
// Markup ends with its line. CommonMark checks whether a mark is next to a space or a letter; the rules here are less
// strict, since Chinese and Japanese have neither spaces nor ASCII punctuation around words. Mathematics and HTML stay
// text.

const DEEPEST = 10; // nested marks: deeper ones stay text
const SPECIAL = /[\\`*_~[!$]|https?:/g;
const MARKS = [["***", "both"], ["**", "strong"], ["__", "strong"], ["~~", "del"], ["*", "em"], ["_", "em"]];
const URL_HERE = /https?:\/\/[^\s<>"'`）】」』，。；！？、]+/y;
const LABEL = /!?\[((?:[^[\]\\]|\\.|\[[^[\]]*\]){0,500})\]/;
const TARGET = /\(\s*<?([^\s()<>]*(?:\([^\s()<>]*\)[^\s()<>]*)*)>?(?:\s+"[^"]*")?\s*\)/;
const LINK = new RegExp(LABEL.source + TARGET.source, "y");
const HALF_LINK = /!?\[([^\]]*)\]?(?:\([^)\s]*)?$/y;

/**
 * The parts of a line: texts as strings, and { kind, ... }: code (text), link (href, parts), strong, em, both, del
 * (parts). `isOpen`: more of the line may come, so an open mark is treated as if it were closed.
 */
export function inlines(text, isOpen = false, depth = 0) {
    const parts = [];
    let said = ""; // text up to `plain` that is not in a part yet
    let plain = 0;
    const flush = (end) => {
        said += text.slice(plain, end);
        if (said) parts.push(said);
        said = "";
    };
    for (let at = 0; at < text.length;) {
        SPECIAL.lastIndex = at;
        const match = SPECIAL.exec(text);
        if (!match) break;
        const part = depth < DEEPEST ? _part(text, match.index, isOpen, depth) : null;
        if (part && typeof part.part === "string") {
            said += text.slice(plain, match.index) + part.part;
            plain = part.end;
        } else if (part) {
            flush(match.index);
            parts.push(part.part);
            plain = part.end;
        }
        at = part ? part.end : match.index + (match[0] === "*" || match[0] === "_" || match[0] === "`"
            ? _run(text, match.index) : 1);
    }
    flush(text.length);
    return parts;
}

/** How many times the same character is repeated here. */
function _run(text, at) {
    let end = at;
    while (text[end] === text[at]) end += 1;
    return end - at;
}

function _part(text, at, isOpen, depth) {
    const sign = text[at];
    if (sign === "\\") return _escaped(text, at);
    if (sign === "`") return _inlineCode(text, at, isOpen);
    if (sign === "$") return _inlineMath(text, at, "$", "$");
    if (sign === "h") return _bareLink(text, at);
    if (sign === "[" || sign === "!") return _link(text, at, isOpen, depth);
    return _marked(text, at, isOpen, depth);
}

function _escaped(text, at) {
    if (text[at + 1] === "(") return _inlineMath(text, at, "\\(", "\\)");
    return /[*_`~[\]#|>$!-]/.test(text[at + 1] ?? "") ? { part: text[at + 1], end: at + 2 } : null;
}

function _inlineCode(text, at, isOpen) {
    const mark = "`".repeat(_run(text, at));
    let close = text.indexOf(mark, at + mark.length);
    while (close >= 0 && _run(text, close) !== mark.length) close = text.indexOf(mark, close + _run(text, close));
    if (close < 0 && !isOpen) return null;
    const inner = text.slice(at + mark.length, close < 0 ? text.length : close);
    const code = /^ .* $/.test(inner) && inner.trim() ? inner.slice(1, -1) : inner;
    return { part: { kind: "code", text: code }, end: close < 0 ? text.length : close + mark.length };
}

/** In mathematics a star is an ordinary character. Prices are not mathematics: "$5 and $6". */
function _inlineMath(text, at, open, close) {
    const end = text.indexOf(close, at + open.length);
    if (end < 0 || end === at + open.length) return null;
    if (open === "$" && (/\s/.test(text[at + 1]) || /\s/.test(text[end - 1]) || /\d/.test(text[end + 1] ?? ""))) {
        return null;
    }
    return { part: text.slice(at, end + close.length), end: end + close.length };
}

function _bareLink(text, at) {
    if (/[A-Za-z0-9]/.test(text[at - 1] ?? "")) return null;
    URL_HERE.lastIndex = at;
    const match = URL_HERE.exec(text);
    if (!match) return null;
    let url = match[0].replace(/[.,:;!?*_~]+$/, "");
    if (url.endsWith(")") && !url.includes("(")) url = url.slice(0, -1);
    const href = safeUrl(url);
    return href && { part: { kind: "link", href, parts: [url] }, end: at + url.length };
}

function _link(text, at, isOpen, depth) {
    LINK.lastIndex = at;
    const match = LINK.exec(text);
    if (match) {
        const label = match[1] || match[2];
        const parts = inlines(label, false, depth + 1);
        const href = safeUrl(match[2]);
        // Loading an image would reveal the user to its server, so it becomes a link.
        return { part: href ? { kind: "link", href, parts } : text.slice(at, at + match[0].length),
            end: at + match[0].length };
    }
    if (!isOpen || text[at] === "!") return null;
    HALF_LINK.lastIndex = at;
    const half = HALF_LINK.exec(text);
    return half && half[0].includes("](") ? { part: half[1], end: text.length } : null;
}

function _marked(text, at, isOpen, depth) {
    const [mark, kind] = MARKS.find(([each]) => text.startsWith(each, at)) ?? [];
    if (!mark) return null;
    const inner = at + mark.length;
    const isWord = (sign) => /[\p{L}\p{N}]/u.test(sign ?? "");
    if (mark[0] === "_" && isWord(text[at - 1])) return null; // a_name_with_lines
    if (inner >= text.length) return isOpen ? { part: "", end: text.length } : null;
    if (/\s/.test(text[inner])) return null;
    let close = text.indexOf(mark, inner + 1);
    while (close >= 0 && !_closes(text, close, mark, isWord)) close = text.indexOf(mark, close + 1);
    if (close < 0 && !isOpen) return null;
    if (mark.length === 2 && close >= 0 && text[close + 2] === mark[0]) close += 1; // **a *b***
    const content = text.slice(inner, close < 0 ? text.length : close);
    const parts = inlines(content, close < 0, depth + 1);
    return { part: { kind, parts }, end: close < 0 ? text.length : close + mark.length };
}

function _closes(text, close, mark, isWord) {
    if (/\s/.test(text[close - 1])) return false;
    if (mark[0] === "_" && isWord(text[close + mark.length])) return false;
    if (mark.length > 1) return true;
    return text[close - 1] !== mark && text[close + 1] !== mark;
}

/** An address that may become a link, or null: only http and https are allowed. */
export function safeUrl(text) {
    if (!/^https?:\/\//i.test(text)) return null;
    try {
        const url = new URL(text);
        return url.protocol === "http:" || url.protocol === "https:" ? url.href : null;
    } catch {
        return null;
    }
}
