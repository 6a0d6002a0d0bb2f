"""What values an annotation takes, in words: `an integer >= 0`."""

from msgspec import inspect


def alternatives(kind: inspect.Type) -> tuple[inspect.Type, ...]:
    """The types of a union, else the one."""
    return kind.types if isinstance(kind, inspect.UnionType) else (kind,)


def optional(kind: inspect.Type) -> bool:
    """Whether None is a value of it."""
    return any(isinstance(k, inspect.NoneType) for k in alternatives(kind))


def describe(kind: inspect.Type) -> str:
    """What values it takes, in words."""
    parts = [_words(k) for k in alternatives(kind) if not isinstance(k, inspect.NoneType)]
    return " or ".join(parts)


def _words(kind: inspect.Type) -> str:
    if isinstance(kind, inspect.BoolType):
        return "true or false"
    if isinstance(kind, inspect.IntType | inspect.FloatType):
        noun = "an integer" if isinstance(kind, inspect.IntType) else "a number"
        bounds = ((">", kind.gt), (">=", kind.ge), ("<", kind.lt), ("<=", kind.le))
        words = [f"{sign} {_number(bound)}" for sign, bound in bounds if bound is not None]
        return f"{noun} {' and '.join(words)}".rstrip()
    if isinstance(kind, inspect.LiteralType):
        return " or ".join(str(value) for value in kind.values)
    if isinstance(kind, inspect.VarTupleType):
        if isinstance(kind.item_type, inspect.StrType):
            return "a list A,B of symbols (1 to 64 printable ASCII characters without spaces)"
        return f"a list A,B, each {_words(kind.item_type)}"
    if isinstance(kind, inspect.DictType):
        return f"a table NAME={_words(kind.value_type).split()[-1].upper()},..., each name once"
    if isinstance(kind, inspect.StrType) and kind.pattern is not None:
        length = f" of {kind.min_length} to {kind.max_length} characters" if kind.max_length else ""
        return f"a string{length} that matches {kind.pattern}"
    return "a string"


def _number(bound: float) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"
