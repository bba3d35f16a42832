"""What may be shown of a text that comes from a model or a file."""

NO_CONTROL_CODES = {
    code: None for code in [*range(32), *range(127, 160)] if chr(code) not in "\n\t"
}
"""For `str.translate`: takes out what moves a cursor, rings a bell or breaks a page."""
