from tasks.sources.overlap import runs_of, without, words_of

SECRET = "the quick brown fox jumps over the lazy dog while seven wizards watch from afar tonight"


def held_out(*texts: str) -> frozenset[str]:
    return frozenset(run for text in texts for run in runs_of(words_of(text)))


def test_a_paragraph_that_quotes_held_out_text_goes_whatever_its_wrapping():
    quoted = SECRET.upper().replace(" brown fox ", "\n  brown, fox;\n")
    text = f"Before.\n\n{quoted}\nand on.\n\nAfter, with nothing to hide."
    assert without(text, held_out(SECRET)) == "Before.\n\nAfter, with nothing to hide."


def test_twelve_words_in_a_row_stay_and_thirteen_go():
    words = SECRET.split()
    assert without(" ".join(words[:12]), held_out(SECRET)) == " ".join(words[:12])
    assert without(" ".join(words[:13]), held_out(SECRET)) == ""


def test_a_quotation_across_short_paragraphs_goes():
    words = SECRET.split()
    text = "\n\n".join(["Kept."] + [" ".join(words[i : i + 4]) for i in range(0, len(words), 4)])
    assert without(text, held_out(SECRET)) == "Kept."


def test_neighbours_that_a_removal_makes_are_looked_at_again():
    words = SECRET.split()
    other = "one two three four five six seven eight nine ten eleven twelve thirteen fourteen"
    text = "\n\n".join([" ".join(words[:8]), other, " ".join(words[8:])])
    assert without(text, held_out(SECRET, other)) == ""


def test_text_that_quotes_nothing_keeps_every_character():
    text = "a title\n*******\n\n   indented\n      more\n\nend"
    assert without(text, held_out(SECRET)) == text
