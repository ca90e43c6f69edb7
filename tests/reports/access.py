"""What people without a mouse, with weak sight or on paper need of a page, asked of Chromium."""

LEAST_CONTRAST = 4.5

CONTRAST = """() => {
  const channels = (text) => {
    const found = text.match(/[\\d.]+/g).map(Number)
    return found.length < 4 ? [...found, 1] : found
  }
  const over = (top, under) => [0, 1, 2].map((i) => top[3] * top[i] + (1 - top[3]) * under[i])
  const light = (rgb) => {
    const linear = (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    const [r, g, b] = rgb.map((v) => linear(v / 255))
    return 0.2126 * r + 0.7152 * g + 0.0722 * b
  }
  const chain = (element) => (element ? [...chain(element.parentElement), element] : [])
  const found = []
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT)
  while (walker.nextNode()) {
    const node = walker.currentNode
    const element = node.parentElement
    if (!node.textContent.trim() || !element.checkVisibility()) continue
    if (element.closest('script, style, option')) continue
    let under = [255, 255, 255]
    let opacity = 1
    for (const one of chain(element)) {
      const style = getComputedStyle(one)
      under = over(channels(style.backgroundColor), under)
      opacity *= Number(style.opacity)
    }
    const style = getComputedStyle(element)
    const colour = channels(element.closest('svg') ? style.fill : style.color)
    const text = over([...colour.slice(0, 3), colour[3] * opacity], under)
    const [a, b] = [light(text), light(under)].sort((x, y) => y - x)
    found.push([(a + 0.05) / (b + 0.05), node.textContent.trim().slice(0, 60)])
  }
  return found
}"""


def weak_texts(page):
    """Texts of a page with too little contrast, in light and in dark colours, with what is folded shown."""
    page.evaluate("document.querySelectorAll('details').forEach((one) => { one.open = true })")
    weak, count = [], 0
    for scheme in ('light', 'dark'):
        page.emulate_media(color_scheme=scheme)
        found = page.evaluate(CONTRAST)
        count += len(found)
        weak += [(scheme, round(ratio, 2), text) for ratio, text in found if ratio < LEAST_CONTRAST]
    assert count > 40
    page.emulate_media(color_scheme='light')
    return weak


def unnamed(page):
    """Pictures without a text, and controls without a name."""
    return page.evaluate(
        """() => [...document.querySelectorAll('img, canvas, svg, select, input, button')]
      .filter((one) => one.checkVisibility())
      .filter((one) => !(one.alt || one.ariaLabel))
      .filter((one) => !(one.tagName === 'BUTTON' && one.textContent.trim()))
      .filter((one) => ![...(one.labels || [])].some((label) => label.textContent.trim()))
      .map((one) => one.outerHTML.slice(0, 120))"""
    )
