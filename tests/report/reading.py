"""What stands on a report's page, read from its HTML as a parser sees it."""

import xml.etree.ElementTree as ET


def parsed(page: str) -> ET.Element:
    return ET.fromstring(page)  # noqa: S314


def words(element: ET.Element) -> str:
    return " ".join(" ".join(element.itertext()).replace("\xa0", " ").split())


def section(page: str, heading: str) -> ET.Element:
    return next(s for s in parsed(page).iter("section") if any(h.text == heading for h in s.findall("h2")))


def table(element: ET.Element, css_class: str) -> list[list[str]]:
    return cells(next(t for t in element.iter("table") if css_class in t.get("class", "").split()))


def cells(table: ET.Element) -> list[list[str]]:
    return [["".join(cell.itertext()).replace("\xa0", " ") for cell in row] for row in table.iter("tr")]


def headings(page: str) -> list[str]:
    return [h.text or "" for s in parsed(page).iter("section") for h in s.findall("h2")]


def plots(page: str) -> dict[str, ET.Element]:
    return {figure.findtext("figcaption/h3", ""): figure for figure in parsed(page).iter("figure")}
