"""Words and phrases that hint at a task class, set by hand.

A cue gives points to one class. Words are matched whole and in lower case; phrases on text whose punctuation has
become spaces. ``bench/surface_classes.py`` measures what they are worth on sources that had no part in choosing them.
"""

from typing import Final

from schemas.enums import TaskClass

CLASSES: Final = (
    TaskClass.MATH,
    TaskClass.CODE,
    TaskClass.WRITING,
    TaskClass.QA,
    TaskClass.REASONING,
    TaskClass.EXTRACT,
    TaskClass.SUPPORT,
    TaskClass.CHAT,
)
"""Order of the score columns."""

MATH, CODE, WRITING, QA, REASONING, EXTRACT, SUPPORT, CHAT = range(len(CLASSES))

_WORDS: Final = {
    (MATH, 3): """solve equation equations polynomial triangle radius perimeter remainder divisible hypotenuse
        integers trapezoid parallelogram logarithm quadratic eigenvalue gcd lcm""",
    (MATH, 2): """calculate compute integer probability percent percentage ratio angle altogether twice fraction
        diameter circle rectangle square cubic factorial modulo prime matrix vector derivative integral polygon
        multiply divided divide subtract sqrt frac arithmetic algebra interest simplify evaluate expression vertices
        area digit digits product sum median average mean speed kmph km mph theorem""",
    (MATH, 1): """total each left remaining cost costs dollars cents twice half third hours minutes days weeks miles
        meters feet inches pounds ounces liters gallons worth sold sells bought buys earns spends gave sum more
        fewer less equal equals positive real per number rate profit times""",
    (CODE, 4): """python javascript java sql html css regex php ruby rust golang typescript bash numpy pandas
        kotlin perl""",
    (CODE, 3): """function program code script algorithm implement compile api refactor debug stdout stdin boolean
        array arrays tuple tuples subarray recursion recursive subroutine def sqlite jquery django flask json xml
        lambda git docker linux kubernetes printf""",
    (CODE, 2): """string strings loop variable method returns database query queries bug syntax parse sorted iterate
        element elements dictionary backend frontend server snippet runtime object linked binary implementation
        output outputs prints""",
    (CODE, 1): """list lists input sort sorting reverse count check create given class error file files line
        return convert""",
    (WRITING, 4): "story poem essay haiku screenplay lyrics sonnet limerick monologue fairytale slogan tagline",
    (WRITING, 3): """letter blog compose draft pretend imagine roleplay persona speech narrative novel fictional
        storyteller newsletter brochure advertisement caption tweet headline post plot dialogue tale""",
    (WRITING, 2): """write describe describing embody envision character role creative scene chapter article email
        invitation outline paragraphs words tone tasked yourself persuasive report plan proposal kingdom adventure
        strategy""",
    (WRITING, 1): "create craft generate explain act advice include detailed ancient magical as world-renowned",
    (QA, 3): """capital invented discovered president founded wrote located author born actor actress singer sings
        sang""",
    (QA, 2): """who when where whose century war film movie novel country city river king queen empire album band
        episode season stars population language oscar champion team league won plays played""",
    (QA, 1): """what which name first year world called known famous ocean planet cell species disease element law
        primary state constitution function theory term refers process""",
    (REASONING, 4): "syllogism premise premises clues clue analogy houses puzzle fallacy",
    (REASONING, 3): """likely morally moral ethical therefore logic logical implies infer conclusion argument
        scenario plausible entails deduce reasoning riddle""",
    (REASONING, 2): """would might if must someone person people everyone nobody neither taller older younger
        leftmost why cause effect wrong true false unless either""",
    (REASONING, 1): "could should because then most best not all some every none feel want find place",
    (EXTRACT, 4): "passage paragraph summarize summarise summary paraphrase context excerpt sentiment",
    (EXTRACT, 3): """extract classify text article sentence sentences rewrite translate keywords categorize category
        categories label labels entity entities abstract document mentioned transcript highlights""",
    (EXTRACT, 2): """identify title according following given review topic keyword spans tag fields field options
        answer question below based detect statement contains phrase""",
    (EXTRACT, 1): "read choose select list tell information whether generate message section",
    (SUPPORT, 4): "refund refunds invoice reimbursement cancellation chargeback verification atm topup top-up",
    (SUPPORT, 3): """account card payment payments cancel subscription delivery shipping password transfer charged
        transaction purchase order orders statement balance pin withdrawal deposit passcode shipment complaint
        compensation reimbursed declined cheque topping identity""",
    (SUPPORT, 2): """bank fee fees app address profile billing bill help assistance problem problems working need
        pending received exchange money purchases support agent representative login sign update cash customer""",
    (SUPPORT, 1): "my i can how get want why change use check still trying did",
    (CHAT, 4): "hello hi hey thanks thank bye goodbye alarm timer reminder remind joke weather playlist",
    (CHAT, 3): """play music turn lights schedule meeting calendar spell traffic reservation flip roll whisper siri
        todo calories recipe volume song restaurant vacation flight flights pto""",
    (CHAT, 2): """please hotel shut stop today tomorrow tonight set call phone text set am pm time reserve book
        directions dinner weekend gas tire oil""",
    (CHAT, 1): "you your tell me what's i'm is it my need let like do are know can could",
}

_PHRASES: Final = {
    (MATH, 4): """how many|how much does|how much did|how old|what is the value of|word problem|find the value
        |math problem""",
    (MATH, 2): "how much|at the rate|in total|how far|how long will|as many|find the number|what percent",
    (CODE, 4): """write a function|write a python|python function|a function to|source code|in c++|unit tests
        |a script""",
    (CODE, 3): """the code|a program|in python|in java|in sql|data structure|time complexity|line of code
        |what does this print""",
    (WRITING, 4): """you are a|you are an|as a|imagine you|act as|i want you to|write a story|role play
        |write an essay|in the style of""",
    (WRITING, 3): """you are|if you were|share your|describe your|describe the|write a letter|write an email
        |blog post|as a writer|write about|cover letter|reply to the email|make up""",
    (QA, 4): "who was the|who is the|when did the|when was the|where is the|what year|who wrote|name the",
    (QA, 2): "who sang|name of the|the first|in the world|what is the|what are the|which of the following",
    (REASONING, 4): """in each house|next to each other|logically sound|what might|would you|where would|where might
        |true or false|of these two scenarios|who lives in|must be true|be concluded|most likely|what comes next""",
    (REASONING, 2): """if the|what would|could be|is likely|a person|someone who|what do people|where can
        |what happens""",
    (EXTRACT, 4): """following text|following passage|following article|following paragraph|the passage|the text
        |the article|based on the context|given the context|from the text|the above|following sentence|the sentence
        |the review""",
    (EXTRACT, 2): """the following|the options are|according to|answer the question|the context|this text
        |return json""",
    (SUPPORT, 4): """my card|my account|my order|my money|my payment|customer service|an order|my purchase|top up
        |the refund""",
    (SUPPORT, 3): """how do i|why was i|i was charged|i need to cancel|how can i|why is my|what do i do|my bank
        |i have a problem|want to cancel|my transfer|i need help|can i get a|why has my|why did my|did not receive""",
    (CHAT, 3): """how are you|tell me a|are you a|what is your|your name|do you|can you tell me|i would like you to
        |how's the""",
    (CHAT, 2): "what time|set an|set a|on my|for me|i said|whats the|what's the|i need you",
}


def _words() -> dict[bytes, tuple[tuple[int, int], ...]]:
    table: dict[bytes, list[tuple[int, int]]] = {}
    for (column, points), text in _WORDS.items():
        for word in dict.fromkeys(text.split()):
            table.setdefault(word.encode(), []).append((column, points))
    return {word: tuple(cues) for word, cues in table.items()}


def _phrases() -> dict[tuple[bytes, bytes], tuple[tuple[bytes, int, int], ...]]:
    table: dict[tuple[bytes, bytes], list[tuple[bytes, int, int]]] = {}
    for (column, points), text in _PHRASES.items():
        for phrase in text.split("|"):
            first, second, *rest = phrase.encode().split()
            whole = b" %s " % b" ".join((first, second, *rest)) if rest else b""
            table.setdefault((first, second), []).append((whole, column, points))
    return {pair: tuple(cues) for pair, cues in table.items()}


WORDS: Final = _words()
"""Word -> (column, points) of each class it speaks for."""
KNOWN: Final = frozenset(WORDS)
PHRASES: Final = _phrases()
"""First two words -> (whole phrase between spaces, empty when two words are all of it; column; points)."""
PAIRS: Final = frozenset(PHRASES)
