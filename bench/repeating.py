"""Texts that repeat in different degrees, to measure how much guessing gains: a prompt, and the answer to it.

    edit      a file of 200 lines, and the same file with a change in every tenth line or so
    summary   a report, and a summary that repeats its names and phrases
    chat      questions and answers about one thing
    new       prose that repeats nothing

All of it was written for this purpose.
"""

from __future__ import annotations

import random

THINGS = "order invoice parcel customer price stock shelf driver route return label pallet".split()
ACTIONS = "load check count sort print merge".split()

FUNCTION = '''
def {action}_{thing}s({thing}s, limit={number}):
    """{Action} the {thing}s of a day, at most `limit` of them."""
    found = []
    for {thing} in {thing}s:
        if {thing}.weight > {number2} and {thing} not in found:
            found.append({thing}.{action}())
    if len(found) > limit:
        raise ValueError(f"there are {{len(found)}} {thing}s; at most {{limit}} are allowed")
    return sorted(found, key=lambda {thing}: {thing}.number)
'''


def _file(rng: random.Random) -> list[str]:
    lines = ["import sys", ""]
    for action in ACTIONS:
        for thing in THINGS:
            names = dict(action=action, Action=action.title(), thing=thing)
            numbers = dict(number=rng.randrange(10, 900), number2=rng.randrange(2, 99))
            lines += FUNCTION.format(**names, **numbers).splitlines()
    return lines


def _edited(lines: list[str], rng: random.Random) -> list[str]:
    changed = [line.replace("found", "kept") if "append" in line and rng.random() < 0.4 else line for line in lines]
    out = []
    for line in changed:
        if line.startswith("def ") and rng.random() < 0.5:
            line = line.replace("):", ", is_dry=False):")
        if line.lstrip().startswith("return") and rng.random() < 0.3:
            out.append(f'    print("{rng.choice(THINGS)} {rng.randrange(1000)}", file=sys.stderr)')
        out.append(line)
    return out


REPORT = """The harbour of Lindesnes was rebuilt between 1962 and 1968 under the engineer Astrid Holmboe. Her plan
moved the old fish market to the northern quay, and replaced the wooden piers by three concrete moles. The city
council first rejected the plan, since the northern quay belonged to the Hansen shipyard, and the shipyard asked for
four million crowns. In the autumn of 1963 a storm destroyed the wooden piers and sank eleven fishing boats. After
that the council bought the northern quay for three and a half million crowns, and work on the concrete moles began
in March 1964. The first mole was finished in 1965, the second in 1966; the third took until June 1968, because the
sea bed east of the lighthouse turned out to be soft clay. Holmboe had piles of forty metres driven into the clay, a
method that was later used in Stavanger and in Bergen. The fish market opened again in August 1968, and the number
of landed tons rose from nine thousand to twenty-two thousand within five years."""

SUMMARY = """The harbour of Lindesnes was rebuilt between 1962 and 1968 under the engineer Astrid Holmboe. She
wanted to move the old fish market to the northern quay and to replace the wooden piers by three concrete moles. The
council rejected the plan at first, because the northern quay belonged to the Hansen shipyard, which asked for four
million crowns. After a storm destroyed the wooden piers and sank eleven fishing boats in the autumn of 1963, the
council bought the northern quay for three and a half million crowns. Work on the concrete moles began in March 1964
and took until June 1968, because the sea bed east of the lighthouse is soft clay. The piles of forty metres that
Holmboe had driven into the clay were later used in Stavanger and in Bergen. When the fish market opened again, the
landed tons rose from nine thousand to twenty-two thousand within five years."""

QUESTION = "How do I keep a sourdough starter alive if I bake only once a month? And what flour should I use for it?"

CHAT = """You can keep a sourdough starter in the fridge and feed it before and after each baking day. Two days
before you bake, take the starter out of the fridge, throw half of it away, and feed it with the same weight of
flour and water. Do this again the next morning and in the evening; by then it should double within six hours. After
you have taken what the dough needs, feed the rest once more, let it stand for an hour, and put it back into the
fridge. For the starter, use a flour with some bran in it, such as whole rye: it carries more yeast than white
flour, and the starter recovers faster. White flour works too, but feed it twice before baking. If grey liquid
collects on top, stir it in or pour it off; the starter is hungry, not dead. Only pink or orange streaks mean that
you should throw it away and begin again. If you bake less than once a month, dry a spoonful of the starter on
baking paper: dried flakes keep for years in a jar."""

NEW = """Beyond the last houses a lane climbs between hedges towards the moor. Nobody mends it now, and brambles
reach across from either side until a walker must turn sideways. Halfway up stands an iron gate without any fence;
somebody painted it blue long ago. From here you see smoke above three chimneys, cattle near a stream, washing that
flaps like signal flags. Higher still grass gives way to heather, larks rise singing, clouds drag shadows over stone
circles whose builders left neither names nor songs. My grandmother claimed that each boulder walks once per
century, always at midnight, never when watched. She kept bees, quarrelled cheerfully with priests, and could
whistle two notes at once. When she died we found seventeen umbrellas under her bed, every one labelled with a
different railway station. Perhaps she meant to return them. Winter arrives early up there: ponds freeze by October,
foxes come begging, mail stops. Then silence settles so thick that your own heartbeat seems impolite, and even dogs
lower their voices."""


def texts() -> dict[str, tuple[str, str]]:
    """(prompt, answer) by name."""
    rng = random.Random(1)
    lines = _file(rng)[:200]
    edit = "\n".join(lines), "\n".join(_edited(lines, rng))
    return {"edit": edit, "summary": (REPORT, SUMMARY), "chat": (QUESTION, CHAT), "new": ("", NEW)}
