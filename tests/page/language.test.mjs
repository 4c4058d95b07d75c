import assert from "node:assert/strict";
import { test } from "node:test";

import { languageOf, LANGUAGES, preferred, speak, t } from "../../rwkv_np/serve/page/language.js";

test("the browser's first language that the page has", () => {
    assert.equal(preferred(["fr-FR", "zh-TW", "en"]), "zh");
    assert.equal(preferred(["ja"]), "ja");
    assert.equal(preferred(["fr"]), "en");
    assert.equal(preferred([]), "en");
});

test("a choice counts more than the browser", () => {
    assert.equal(speak("ja", ["zh"]), "ja");
    assert.equal(t("send"), LANGUAGES.ja.texts.send);
    assert.equal(speak("auto", ["zh"]), "zh-Hans");
    assert.equal(t("send"), LANGUAGES.zh.texts.send);
});

test("one token, two tokens", () => {
    speak("en", []);
    assert.equal(t("tokens", { n: 1 }), "1 token");
    assert.equal(t("tokens", { n: 2 }), "2 tokens");
});

test("what is filled in is not filled in again", () => {
    speak("en", []);
    assert.equal(t("removed", { title: "{n} $& {title}" }), "“{n} $& {title}” was deleted.");
});

test("texts have the same keys and places in each language", () => {
    const places = (text) => [...new Set([...text.matchAll(/\{(\w+)/g)].map((match) => match[1]))].sort().join();
    const { texts: english } = LANGUAGES.en;
    for (const { name, texts } of Object.values(LANGUAGES)) {
        assert.deepEqual(Object.keys(texts), Object.keys(english), name);
        for (const [key, text] of Object.entries(texts)) {
            assert.equal(places(text), places(english[key]), `${name} ${key}`);
        }
    }
});

test("the language of a text", () => {
    assert.equal(languageOf("日本の首都は"), "ja");
    assert.equal(languageOf("中国的首都"), "zh-Hans");
    assert.equal(languageOf("the capital"), null);
});
