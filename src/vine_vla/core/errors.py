"""The one error that users are meant to read."""


class VineError(Exception):
    """Bad input: one line that says what is wrong, where, and how to mend it.

    Raised wherever the cause lies with the caller's files or arguments. The command line prints the
    line and exits with code 2; programs may catch it. Anything else that escapes is a bug in VINE.

    Args:
        what: what is wrong, e.g. `action holds NaN`.
        where: file and field, e.g. `data/chunk-000/file-000.parquet, column action, row 17`.
        hint: what to do about it.
    """

    def __init__(self, what: str, *, where: str = "", hint: str = "") -> None:
        self.what, self.where, self.hint = what, where, hint
        line = what + (f" ({where})" if where else "") + (f": {hint}" if hint else "")
        super().__init__(" ".join(line.split()))
