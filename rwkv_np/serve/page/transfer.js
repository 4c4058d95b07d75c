// Export of conversations as JSON (all branches) or Markdown (the shown turns), and import.
//
// A file is not trusted. A conversation is built from it field by field, with new ids: it cannot replace an existing
// conversation, and fields that are unknown or of the wrong type are skipped.

import { Conversation, newId } from "./conversation.js";

const FORMAT = "rwkv-np conversations";
export const LARGEST = 50_000_000; // bytes of a file
const ROLES = ["user", "assistant"];
const MARK = /^<!-- rwkv-np: (system|user|assistant) -->$/;
const QUOTED = /^(<!-- rwkv-np)(\\*): (system|user|assistant) -->$/gm;

/** All branches of these conversations. */
export function toJson(conversations) {
    const file = { format: FORMAT, version: 1, conversations: conversations.map((each) => each.data) };
    return JSON.stringify(file, null, 1);
}

/** The shown turns of a conversation as Markdown. `names`: of the two speakers, and of the system text. */
export function toMarkdown(conversation, names) {
    const parts = [`# ${conversation.title || names.untitled}`];
    const part = (role, name, text) => {
        // If a message has such a line itself, it gets one more backslash, which import removes.
        const quoted = text.replace(QUOTED, "$1$2\\: $3 -->");
        parts.push(`<!-- rwkv-np: ${role} -->\n**${name}**\n\n${quoted}`);
    };
    if (conversation.data.system) part("system", names.system, conversation.data.system);
    for (const turn of conversation.path()) part(turn.role, names[turn.role], turn.text);
    return `${parts.join("\n\n")}\n`;
}

/** Conversations from a file's text. Throws ImportError. */
export function fromFile(text) {
    const start = text.trimStart()[0];
    const found = start === "{" || start === "[" ? _fromJson(text) : _fromMarkdown(text);
    const conversations = found.filter((each) => each && !each.isEmpty);
    if (!conversations.length) throw new ImportError("importEmpty");
    return conversations;
}

/** A file that cannot be imported; `key` names the text with the reason. */
export class ImportError extends Error {
    constructor(key) {
        super(key);
        this.key = key;
    }
}

function _fromJson(text) {
    let file;
    try {
        file = JSON.parse(text);
    } catch {
        throw new ImportError("importNotJson");
    }
    const list = Array.isArray(file) ? file : Array.isArray(file.conversations) ? file.conversations : [file];
    return list.map((each) => (Array.isArray(each?.messages) ? _fromMessages(each) : _fromData(each)));
}

/** Read our own export. A turn comes after the turn that it follows, so there can be no loop. */
function _fromData(data) {
    if (!data || !Array.isArray(data.turns)) return null;
    const conversation = _named(data);
    const ids = new Map([["", ""]]);
    for (const turn of data.turns) {
        const parent = ids.get(turn?.parent);
        if (parent === undefined || !ROLES.includes(turn.role) || typeof turn.text !== "string") continue;
        if (typeof turn.id !== "string" || ids.has(turn.id)) continue;
        ids.set(turn.id, _copy(conversation, parent, turn).id);
    }
    conversation.data.chosen = {};
    for (const [parent, child] of Object.entries(data.chosen ?? {})) {
        if (!ids.has(parent) || !ids.has(child) || child === "") continue;
        conversation.data.chosen[ids.get(parent)] = ids.get(child);
    }
    conversation.data.updated = _number(data.updated) ?? Date.now();
    return conversation;
}

function _copy(conversation, parent, turn) {
    const more = {};
    for (const name of ["seconds", "tokens", "rate", "prompt", "cached", "created"]) {
        if (_number(turn[name]) !== undefined) more[name] = turn[name];
    }
    for (const name of ["thought", "finish", "model"]) {
        if (typeof turn[name] === "string") more[name] = turn[name];
    }
    return conversation.add(parent, turn.role, turn.text, more);
}

/** Read messages in OpenAI's format, which other programs write too. */
function _fromMessages(file) {
    const conversation = _named(file);
    let parent = "";
    for (const message of file.messages) {
        const text = _text(message?.content);
        if (text === null) continue;
        if (message.role === "system" || message.role === "developer") {
            conversation.data.system = [conversation.data.system, text].filter(Boolean).join("\n");
        } else if (ROLES.includes(message.role)) {
            parent = conversation.add(parent, message.role, text).id;
        }
    }
    return conversation;
}

function _text(content) {
    if (typeof content === "string") return content;
    if (!Array.isArray(content)) return null;
    return content.map((part) => (typeof part?.text === "string" ? part.text : "")).join("");
}

function _named(data) {
    const conversation = new Conversation();
    if (typeof data.title === "string" && data.title && data.isNamed !== false) conversation.rename(data.title);
    if (typeof data.system === "string") conversation.data.system = data.system;
    conversation.data.created = _number(data.created) ?? conversation.data.created;
    conversation.data.id = newId();
    return conversation;
}

function _number(value) {
    return typeof value === "number" && Number.isFinite(value) ? value : undefined;
}

function _fromMarkdown(text) {
    const lines = text.replace(/\r\n/g, "\n").split("\n");
    const parts = [];
    for (const line of lines) {
        const mark = MARK.exec(line);
        if (mark) parts.push({ role: mark[1], lines: [] });
        else parts.at(-1)?.lines.push(line);
    }
    if (!parts.length) throw new ImportError("importNotJson");
    const title = /^# (.*)$/m.exec(lines[0])?.[1] ?? "";
    const messages = parts.map(({ role, lines }) => {
        const body = lines.slice(/^\*\*.*\*\*$/.test(lines[0] ?? "") ? 1 : 0).join("\n");
        const plain = body.replace(/^\n/, "").replace(/\n$/, "");
        return { role, content: plain.replace(/^(<!-- rwkv-np\\*)\\(: (?:system|user|assistant) -->)$/gm, "$1$2") };
    });
    return [_fromMessages({ title, messages })];
}
