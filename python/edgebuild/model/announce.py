"""What inference says: one sentence for each assumption, or the error with what is known and what to give."""

from collections.abc import Mapping, Sequence

from edgebuild.errors import ModelError
from edgebuild.model.guess import Guess


def sentence(name: str, guess: Guess, shape: tuple[int, ...]) -> str:
    """The announcement of one assumed input, with the flag that overrides it."""
    guessed = [i for i, axis in enumerate(guess.axes) if isinstance(axis, str)]
    letters = _letters(guess, shape)
    sizes = ", ".join(f"axis {i} = {shape[i]}" for i in guessed if guess.axes[i] != "batch")
    how = f"; {sizes} {'was' if sizes.count('=') == 1 else 'were'} tried and accepted" if sizes else ""
    text = ",".join(map(str, shape))
    return (
        f"assumed input '{name}' is {guess.dtype}[{text}]: {guess.reason or 'nothing says its shape'}{how}; "
        f"override with --input '{name}:{guess.dtype}[{','.join(letters)}]'"
    )


def _letters(guess: Guess, shape: tuple[int, ...]) -> list[str]:
    """The sizes, and letters for those that were guessed: each its own, as in N,H,W,3."""
    space = [i for i, axis in enumerate(guess.axes) if axis == "space"]
    named = {"batch": "N", "sequence": "T", "depth": "D", "height": "H", "width": "W"}
    letters = [str(size) for size in shape]
    for i, axis in enumerate(guess.axes):
        if isinstance(axis, str):
            letter = "DHW"[-len(space) :][space.index(i)] if i in space and 1 < len(space) < 4 else named.get(axis, "L")
            letters[i] = letter if letter not in letters else f"{letter}{i}"
    return letters


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
