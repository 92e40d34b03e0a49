"""Text that others wrote, made harmless where a person reads it: on a terminal, and in logs for people."""


def printable(text: str, keep: str = "") -> str:
    r"""The text with everything that a terminal would act on, or not show, written out: ESC is `\x1b`, NUL `\x00`.

    That is every control and format character, such as those that turn the direction of writing; those in `keep` stay.
    """
    if text.isprintable():
        return text
    return "".join(mark if mark.isprintable() or mark in keep else _written_out(mark) for mark in text)


def _written_out(mark: str) -> str:
    return mark.encode("unicode_escape").decode()
