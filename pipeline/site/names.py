"""Readable names for a simulated site: topics and their words, channels, video titles."""

import numpy as np

# Name, then the words that people search by. A word belongs to one topic only, so that a query
# tells its topic.
_TOPICS: tuple[tuple[str, str], ...] = (
    ("Cooking", "pasta recipe dinner soup sauce oven knife curry"),
    ("Chess", "opening gambit endgame checkmate bishop grandmaster blitz rook"),
    ("Football", "goal penalty league striker keeper derby dribble offside"),
    ("Guitar", "chords fingerpicking riff strumming fretboard acoustic solo amp"),
    ("Travel", "backpacking hostel itinerary train islands flight passport roadtrip"),
    ("Gaming", "speedrun boss walkthrough loot multiplayer console quest glitch"),
    ("Gardening", "tomatoes compost pruning seedlings roses greenhouse mulch herbs"),
    ("Fitness", "workout squats stretching cardio dumbbell abs yoga plank"),
    ("News", "election parliament headline interview economy minister debate breaking"),
    ("Astronomy", "telescope galaxy nebula planets eclipse rocket comet orbit"),
    ("Makeup", "lipstick eyeliner foundation contour mascara blush palette primer"),
    ("Cars", "engine turbo review clutch sedan dashcam exhaust drift"),
    ("Programming", "python compiler debugging algorithm database refactor javascript linux"),
    ("Pets", "puppy kitten leash parrot hamster grooming aquarium vet"),
    ("History", "empire medieval pharaoh revolution castle treaty archaeology viking"),
    ("Comedy", "sketch standup prank parody improv roast bloopers satire"),
    ("Woodworking", "dovetail plywood router workbench chisel joinery lathe varnish"),
    ("Photography", "lens aperture portrait tripod lightroom shutter bokeh landscape"),
    ("Fashion", "outfit sneakers runway vintage tailoring denim lookbook thrift"),
    ("Film", "trailer director oscar sequel soundtrack screenplay remake cinema"),
    ("Science", "experiment quantum chemistry microscope gravity physics molecule laser"),
    ("Hip Hop", "freestyle beat rapper cypher mixtape verse producer sample"),
    ("Knitting", "yarn crochet scarf stitch needles cardigan wool pattern"),
    ("Sailing", "sailboat anchor regatta harbour rigging catamaran knot spinnaker"),
    ("Finance", "stocks dividend mortgage budget savings inflation bonds retirement"),
    ("Basketball", "dunk crossover playoffs rebound buzzer layup alley draft"),
    ("Painting", "watercolour canvas brush acrylic easel sketching gouache pastel"),
    ("Parenting", "toddler bedtime stroller lullaby newborn tantrum nursery daycare"),
    ("Cycling", "gravel peloton derailleur sprint saddle mountainbike climb pedals"),
    ("Magic", "cardtrick illusion sleight deck vanish levitation coin mentalism"),
    ("Languages", "grammar vocabulary pronunciation fluent verbs idioms accent subtitles"),
    ("Architecture", "skyscraper facade blueprint brutalism cathedral loft renovation concrete"),
)  # fmt: skip
_QUALIFIERS = (
    "beginner", "classic", "extreme", "budget", "pro", "family", "retro", "japanese", "midnight",
    "outdoor", "tiny", "royal", "urban", "nordic", "street", "desert", "festival", "vegan",
)  # fmt: skip
_HOSTS = (
    "Ana", "Ben", "Carla", "Dev", "Emi", "Farid", "Grace", "Hugo", "Ines", "Jonas", "Keiko", "Leo",
    "Maya", "Nils", "Olga", "Pablo", "Quinn", "Rosa", "Sam", "Tara", "Umar", "Vera", "Will", "Yuki",
    "Zoe", "Amir", "Bea", "Chidi", "Dana", "Elif", "Finn", "Gita",
)  # fmt: skip
_SHOWS = (
    "{topic} with {host}",
    "{host} on {topic}",
    "{topic} Daily by {host}",
    "{topic} Club {host}",
)
_PLAIN_TITLES = (
    "{a} and {b}: what you need to know",
    "{topic} explained: {a} step by step",
    "{a}, {b} and more, part {number}",
    "The truth about {a}",
    "Ten minutes of {a}",
    "{topic} Q&A: {a} or {b}?",
)
_CLICKBAIT_TITLES = (
    "You won't believe this {a}!",
    "{a} GONE WRONG (not what you think)",
    "The {a} secret THEY hide from you",
    "I tried {a} for 30 days and THIS happened",
)
MAX_TOPICS = len(_TOPICS) * (1 + len(_QUALIFIERS))


def topics(number: int) -> tuple[list[str], list[tuple[str, ...]]]:
    """Returns names and search words of ``number`` topics.

    Past the basic topics come qualified ones: "Retro Cooking", searched by "retro pasta".
    """
    names, words = [], []
    for index in range(number):
        qualifier, base = divmod(index, len(_TOPICS))
        name, text = _TOPICS[base]
        plain = text.split()
        if qualifier:
            prefix = _QUALIFIERS[qualifier - 1]
            name, plain = f"{prefix.title()} {name}", [f"{prefix} {word}" for word in plain]
        names.append(name)
        words.append(tuple(plain))
    return names, words


def channels(channel_topics: np.ndarray, topic_names: list[str]) -> tuple[list[str], list[str]]:
    """Names the channels.

    Args:
        channel_topics: int [C], topic of each channel.
        topic_names: Names of the K topics.

    Returns:
        (ids, titles) such as ("cooking-with-ana", "Cooking with Ana"); each is unique, and a
        number tells the second channel of a name from the first.
    """
    ids, titles, seen = [], [], dict.fromkeys(topic_names, 0)
    for index, topic in enumerate(channel_topics.tolist()):
        name = topic_names[topic]
        count = seen[name]
        seen[name] += 1
        host = _HOSTS[(count + 7 * topic) % len(_HOSTS)]
        round_, show = count // len(_HOSTS), _SHOWS[(count + index) % len(_SHOWS)]
        title = show.format(topic=name, host=host) + (f" {round_ + 1}" if round_ else "")
        titles.append(title)
        ids.append(title.lower().replace(" ", "-"))
    return ids, titles


def titles(
    *,
    topic: np.ndarray,
    channel_titles: list[str],
    channel: np.ndarray,
    episode: np.ndarray,
    clickbait: np.ndarray,
    topic_names: list[str],
    topic_words: list[tuple[str, ...]],
    picks: np.ndarray,
) -> list[str]:
    """Returns the titles of V videos.

    Args:
        topic: int [V], topic of each video.
        channel_titles: Titles of the C channels.
        channel: int [V], channel of each video.
        episode: int [V], 0 for videos outside a series.
        clickbait: float [V] in [0, 1]; above 1/2 the title shouts.
        topic_names: Names of the K topics.
        topic_words: [K] search words of each topic.
        picks: int [V, 3], random numbers that choose among forms and words.
    """
    made = []
    rows = zip(
        topic.tolist(), channel.tolist(), episode.tolist(), clickbait.tolist(), picks.tolist(),
        strict=True,
    )  # fmt: skip
    for topic_index, channel_index, number, bait, (form, first, second) in rows:
        if number:
            made.append(f"{channel_titles[channel_index]}, episode {number}")
            continue
        words, name = topic_words[topic_index], topic_names[topic_index]
        forms = _CLICKBAIT_TITLES if bait > 0.5 else _PLAIN_TITLES
        a, b = (
            words[first % len(words)],
            words[(first + 1 + second % (len(words) - 1)) % len(words)],
        )
        text = forms[form % len(forms)].format(a=a, b=b, topic=name, number=2 + second % 40)
        made.append(text[0].upper() + text[1:])
    return made
