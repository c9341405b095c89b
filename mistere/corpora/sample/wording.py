"""The texts of the sample: templates in three kinds of wording.

*Telling* wording fits one emotion only. *Shared* wording fits the two emotions of a pair that the voice separates (see
:mod:`mistere.corpora.sample.prosody` for the pairs that the voice confuses instead), so that text and voice complement each other.
*Empty* wording fits any emotion; *fillers* are empty wording of one or two words. All speakers share one list of names, so a text does
not identify its speaker.
"""

from __future__ import annotations

import random
from typing import Literal

from mistere.corpora.sample.turn_kinds import FILLER, TurnKind

Emotion = Literal["neutral", "happy", "sad", "angry", "fearful", "surprised"]
EMOTIONS: tuple[Emotion, ...] = ("neutral", "happy", "sad", "angry", "fearful", "surprised")

_SLOTS: dict[str, tuple[str, ...]] = {
    "who": (
        *("Anna", "Tom", "Mark", "Julia", "Peter", "Nina", "Oscar", "Laura", "Simon", "Helen"),
        *("my sister", "your brother", "the neighbour", "my cousin", "your boss", "the teacher"),
    ),
    "what": (
        *("the report", "the car", "the flat", "the garden", "the trip", "the exam", "the new job", "the letter"),
        *("the camera", "the old house", "the boat", "the contract", "the piano", "the ticket", "the shop", "the bike"),
    ),
    "when": (
        *("on Monday", "tonight", "next week", "this morning", "tomorrow", "at noon"),
        *("after lunch", "on Friday", "this weekend", "before dinner"),
    ),
}

_TELLING: dict[Emotion, tuple[str, ...]] = {
    "neutral": (
        "I will send you {what} {when}.",
        "{who} works on the second floor.",
        "The bus leaves {when}.",
        "Please put {what} on the list.",
        "I need the number of {who}.",
        "The shop opens {when}.",
        "It takes about ten minutes.",
        "The meeting is in room four.",
        "We still have some milk.",
        "You can find {what} in the folder.",
        "{who} starts work {when}.",
        "Let me check the calendar.",
    ),
    "happy": (
        "I am so glad about {what}.",
        "I love it, {who} did a great job.",
        "We made it, I feel fantastic.",
        "I can not stop smiling today.",
        "I am delighted to see {who} again.",
        "It was a perfect day with {who}.",
        "We should celebrate {when}.",
        "I enjoyed every minute of {what}.",
        "Thank you, that makes me really happy.",
        "This is the best part of the year.",
        "I am looking forward to {what} so much.",
        "Everything worked out well with {what}.",
    ),
    "sad": (
        "I miss {who} so much.",
        "I cried about {what} again.",
        "It hurts to think of {what}.",
        "I am so lonely here.",
        "I have given up on {what}.",
        "My heart is broken.",
        "I feel empty since {who} left.",
        "I never got to say goodbye to {who}.",
        "Nothing feels right any more.",
        "I wish things were as they were before.",
        "It is hopeless, {what} is lost.",
        "I am really down today.",
    ),
    "angry": (
        "I am sick of your excuses about {what}.",
        "How dare you talk to {who} like that?",
        "Stop lying to me about {what}.",
        "I hate it when you ignore me.",
        "You ruined {what} again.",
        "Get out of my sight.",
        "I have had enough of {who}.",
        "Shut up and leave me alone.",
        "I am furious with {who}.",
        "Do not blame me for {what}.",
        "This is outrageous, I want my money back.",
        "You never listen to anyone.",
    ),
    "fearful": (
        "I am scared of what happens {when}.",
        "There is someone outside the door.",
        "I am terrified of losing {what}.",
        "I think we are in danger.",
        "I have a terrible feeling about {what}.",
        "My hands are shaking.",
        "I do not dare to open {what}.",
        "Something bad is going to happen {when}.",
        "Hide, they are coming.",
        "I panic when I think of {what}.",
        "Did you hear that noise upstairs?",
        "What if {who} is following us?",
    ),
    "surprised": (
        "Wow, I did not expect {what}.",
        "I had no idea about {what}.",
        "Oh my, when did that happen?",
        "You are kidding, {when} already?",
        "I never thought {who} would do that.",
        "Since when do you have {what}?",
        "That came out of nowhere.",
        "I am stunned, {what} is finished.",
        "Who would have guessed that?",
        "What, {who} is here?",
        "I did not see that coming.",
        "That is a shock, I had no clue.",
    ),
}

_SHARED: tuple[tuple[tuple[Emotion, Emotion], tuple[str, ...]], ...] = (
    (
        ("happy", "surprised"),
        (
            "{who} is getting married {when}.",
            "{who} won the first prize.",
            "You have to see {what}.",
            "They said yes to {what}.",
            "Look who is standing there.",
            "I got {what} after all.",
            "Unbelievable, {what} is ours.",
            "{who} came all the way to see us.",
            "They gave me {what} for free.",
            "It really is {who}.",
            "Imagine, {who} is having a baby.",
            "We passed, both of us.",
        ),
    ),
    (
        ("sad", "fearful"),
        (
            "{who} is in the hospital.",
            "I could not sleep because of {what}.",
            "I do not know if {who} will come back.",
            "Please do not leave me here.",
            "What will become of {what}?",
            "They did not find {who}.",
            "The doctor called about {who}.",
            "I do not want to be alone {when}.",
            "We may lose {what}.",
            "It is so dark and quiet here.",
            "I do not know how to go on.",
            "{who} has not answered for days.",
        ),
    ),
    (
        ("angry", "neutral"),
        (
            "You forgot {what}.",
            "{who} was late again.",
            "I asked you to bring {what}.",
            "It is your turn to clean up.",
            "I told you to call {who}.",
            "You could have called me.",
            "{what} is not where I left it.",
            "We talked about {what} already.",
            "{who} wants the money back {when}.",
            "You said you would do it {when}.",
            "Someone has moved {what}.",
            "Then do it yourself {when}.",
        ),
    ),
)

_EMPTY: tuple[str, ...] = (
    "Well, all right then.",
    "What do you mean?",
    "Are you sure about {what}?",
    "Go on, tell me.",
    "Let us talk about it {when}.",
    "And {who}?",
    "It is about {what}.",
    "So that is {what}.",
    "I have to tell you something.",
    "I do not know what to say.",
    "{who} told me {when}.",
    "I was just with {who}.",
    "Wait a moment.",
)
_FILLERS: tuple[str, ...] = (
    *("Okay.", "Yes.", "No.", "Well.", "All right.", "I see.", "I know.", "Come on.", "Of course.", "Oh really."),
    *("Not yet.", "And now?", "Oh well.", "Yes, yes.", "Hello?", "Right now?"),
)


def word(emotion: Emotion, kind: TurnKind, draw: random.Random) -> str:
    """The text of an utterance for an emotion, with random wording, template and slots."""
    wording = draw.random()
    if kind is FILLER:
        pool = _FILLERS
    elif wording < kind.telling_wording:
        pool = _TELLING[emotion]
    elif wording < kind.telling_wording + kind.shared_wording:
        pool = next(templates for pair, templates in _SHARED if emotion in pair)
    else:
        pool = _EMPTY
    text = draw.choice(pool).format(**{slot: draw.choice(fillers) for slot, fillers in _SLOTS.items()})
    return text[0].upper() + text[1:]
