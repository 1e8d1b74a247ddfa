"""Replace generated parts of a page, between ``<!-- NAME -->`` and ``<!-- /NAME -->``. Pure."""


def filled(page: str, blocks: dict[str, str]) -> str:
    """Return the page with its blocks replaced. Raises ``ValueError`` unless each block is there exactly once."""
    for name, text in blocks.items():
        begin, end = f"<!-- {name} -->\n", f"<!-- /{name} -->"
        if (page.count(begin), page.count(end)) != (1, 1):
            raise ValueError(f"block {name}: not once in the page")
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page
