// The page's language and its texts.

import en from "./texts_en.js";
import ja from "./texts_ja.js";
import zh from "./texts_zh.js";

export const LANGUAGES = {
    en: { name: "English", tag: "en", texts: en },
    zh: { name: "中文", tag: "zh-Hans", texts: zh },
    ja: { name: "日本語", tag: "ja", texts: ja },
};

let current = "en";

/** The first of the browser's languages that the page supports. */
export function preferred(tags) {
    const known = tags.map((tag) => tag.toLowerCase().split("-")[0]).find((tag) => tag in LANGUAGES);
    return known ?? "en";
}

/** Use this language from now on; "auto": the browser's. */
export function speak(choice, tags = navigator.languages) {
    current = choice in LANGUAGES ? choice : preferred(tags);
    return LANGUAGES[current].tag;
}

/** A text with its {placeholders} filled; {n|one|more} is a word that depends on a number. */
export function t(key, values = {}) {
    const text = LANGUAGES[current].texts[key];
    if (text === undefined) throw new Error(`there is no text ${key}`);
    const word = (_, name, one, more) => (String(values[name]) === "1" ? one : more);
    return text.replace(/\{(\w+)\|([^|}]*)\|([^}]*)\}/g, word)
        .replace(/\{(\w+)\}/g, (place, name) => (name in values ? String(values[name]) : place));
}

/** The language tag of a text, guessed from its characters, or null. Chinese and Japanese glyphs differ. */
export function languageOf(text) {
    const start = text.slice(0, 2000);
    if (/[\u3040-\u30ff]/.test(start)) return "ja";
    if (/[\uac00-\ud7af]/.test(start)) return "ko";
    return /[\u4e00-\u9fff]/.test(start) ? "zh-Hans" : null;
}

/** A number in the format of the language. */
export function number(value, digits = 0) {
    return value.toLocaleString(LANGUAGES[current].tag, { maximumFractionDigits: digits });
}
