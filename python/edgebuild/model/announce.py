"""What inference says: one sentence for each assumption, or the error with what is known and what to give."""

from collections.abc import Mapping, Sequence

from edgebuild.errors import ModelError
from edgebuild.model.guess import Guess


def sentence(name: str, guess: Guess, shape: tuple[int, ...]) -> str:
    """The announcement of one assumed input, with the flag that overrides it."""
    guessed = [i for i, axis in enumerate(guess.axes) if isinstance(axis, str)]
    letters = [str(n) for n in shape]
    for i in guessed:
        letters[i] = {
            "batch": "N",
            "sequence": "T",
            "space": "DHW"[i - len(shape) + 3] if len(shape) > 3 else "S",
            "depth": "D",
            "height": "H",
            "width": "W",
        }.get(str(guess.axes[i]), "L")
    sizes = ", ".join(f"axis {i} = {shape[i]}" for i in guessed if guess.axes[i] != "batch")
    how = f"; {sizes} {'was' if sizes.count('=') == 1 else 'were'} tried and accepted" if sizes else ""
    text = ",".join(map(str, shape))
    return (
        f"assumed input '{name}' is {guess.dtype}[{text}]: {guess.reason}{how}; "
        f"override with --input '{name}:{guess.dtype}[{','.join(letters)}]'"
    )


def failure(
    names: Sequence[str],
    alternatives: Mapping[str, list[Guess]],
    error: Exception | None,
) -> ModelError:
    """The error that lists what is known of every input; ``error`` is what the model said to the likeliest guess."""
    known = []
    for name in names:
        guess = alternatives[name][0] if alternatives[name] else None
        if guess is not None:
            known.append(f"'{name}' is probably {guess.dtype}[{','.join(map(str, guess.axes))}] ({guess.reason})")
        else:
            known.append(f"'{name}': nothing is known")
    shown = " ".join(
        "--input '"
        + (
            f"{n}:{g.dtype}[{','.join('1' if a == 'batch' else str(a) for a in g.axes)}]"
            if (g := _first(alternatives[n]))
            else f"{n}:float32[1,…]"
        )
        + "'"
        for n in names
    )
    last = f"; the model says: {_last_line(error)}" if error is not None else ""
    msg = f"the inputs could not be inferred: {'; '.join(known)}{last}"
    return ModelError(msg, hint=f"give them, with numbers for the names: {shown}")


def _first(guesses: list[Guess]) -> Guess | None:
    return guesses[0] if guesses else None


def _last_line(error: Exception) -> str:
    lines = [line for line in str(error).strip().splitlines() if line.strip()]
    return lines[-1].strip()[:300] if lines else type(error).__name__
