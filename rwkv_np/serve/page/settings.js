// The user's settings: sampling, colours, language. They are stored in the browser.
//
// The server's defaults are neutral, like OpenAI's. A chat needs the defaults of the model's family: FAMILIES repeats
// the table in rwkv_np/chat/defaults.py, by template name; a test compares them.

import { keep, recall } from "./kept.js";

const RAVEN = { temperature: 1, top_p: 0.5, top_k: 0, presence_penalty: 0.2, frequency_penalty: 0.2,
    penalty_decay: 0.996, max_tokens: 512 };
const WORLD = { ...RAVEN, top_p: 0.3, presence_penalty: 0.5, frequency_penalty: 0.5 };
const G1 = { ...RAVEN, top_k: 100, presence_penalty: 0, frequency_penalty: 0, penalty_decay: 0.997, max_tokens: 4000 };
export const FAMILIES = { raven: RAVEN, qa: RAVEN, instruction: RAVEN, world: WORLD, g1: G1 };

/** Numbers: the range and step of the slider; typed values may be from `least` to `most`. */
export const NUMBERS = {
    temperature: { min: 0, max: 2, step: 0.05, most: 100 },
    top_p: { min: 0, max: 1, step: 0.01 },
    top_k: { min: 0, max: 500, step: 1, most: 1_000_000 },
    presence_penalty: { min: -2, max: 2, step: 0.05 },
    frequency_penalty: { min: -2, max: 2, step: 0.05 },
    penalty_decay: { min: 0.9, max: 1, step: 0.001, least: 0 },
    max_tokens: { min: 1, max: 8192, step: 1, most: 65_536 },
};
export const CHOICES = {
    think: ["auto", "on", "short", "off"],
    theme: ["auto", "light", "dark"],
    language: ["auto", "en", "zh", "ja"],
};

export class Settings {
    constructor() {
        this._own = _read();
        this.template = "raven";
        this.thinks = false;
    }

    /** A setting's value: the user's, or the default. */
    get(name) {
        return this._own[name] ?? this.default(name);
    }

    default(name) {
        if (name in CHOICES) return "auto";
        return name === "seed" ? "" : (FAMILIES[this.template] ?? RAVEN)[name];
    }

    /** Set a value if it is valid; returns whether it is. */
    set(name, value) {
        const made = _checked(name, value);
        if (made === undefined) return false;
        if (made === this.default(name)) delete this._own[name];
        else this._own[name] = made;
        keep("settings", JSON.stringify(this._own));
        return true;
    }

    /** Reset the sampling settings. Colours and language stay. */
    reset() {
        for (const name of [...Object.keys(NUMBERS), "seed", "think"]) delete this._own[name];
        keep("settings", JSON.stringify(this._own));
    }

    /** The fields of a request. */
    fields() {
        const names = Object.keys(NUMBERS).filter((name) => name !== "max_tokens");
        const fields = Object.fromEntries(names.map((name) => [name, this.get(name)]));
        fields.max_completion_tokens = this.get("max_tokens");
        if (this.get("seed") !== "") fields.seed = this.get("seed");
        if (this.thinks) fields.think = this.get("think");
        return fields;
    }
}

function _read() {
    let kept = {};
    try {
        kept = JSON.parse(recall("settings") ?? "{}") ?? {};
    } catch {
        // The stored text is not ours.
    }
    const entries = Object.entries(kept).map(([name, value]) => [name, _checked(name, value)]);
    return Object.fromEntries(entries.filter(([, value]) => value !== undefined));
}

/** The value in the stored form, or undefined. */
function _checked(name, value) {
    if (Object.hasOwn(CHOICES, name)) return CHOICES[name].includes(value) ? value : undefined;
    if (name === "seed") {
        if (value === "") return "";
        const seed = Number(value);
        return Number.isSafeInteger(seed) ? seed : undefined;
    }
    if (!Object.hasOwn(NUMBERS, name) || value === "" || !Number.isFinite(Number(value))) return undefined;
    const { min, max, step, least = min, most = max } = NUMBERS[name];
    const within = Math.min(most, Math.max(least, Number(value)));
    return step === 1 ? Math.round(within) : within;
}
