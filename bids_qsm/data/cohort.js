'use strict'
/* Charts of the cohort's page in which points can be looked at and opened. Without this script the pictures stay. */
for (const source of document.querySelectorAll('script.points')) {
  const data = JSON.parse(source.textContent)
  const { region, group, series, value } = data.points
  const width = 1100
  const height = 400
  const frame = { left: 64, right: 12, top: 30, bottom: 28 }
  const place = document.createElement('div')
  place.className = 'chart screen'
  const make = (name, attributes, ...children) => {
    const element = document.createElementNS('http://www.w3.org/2000/svg', name)
    for (const [key, text] of Object.entries(attributes)) element.setAttribute(key, text)
    element.append(...children)
    return element
  }
  const ends = [...value, ...data.boxes.flatMap((box) => box.slice(2)), ...(data.symbol.startsWith('χ') ? [0] : [])]
  let low = Math.min(...ends.slice(0, 1))
  let high = low
  for (const v of ends) {
    low = Math.min(low, v)
    high = Math.max(high, v)
  }
  if (!ends.length || low === high) [low, high] = [(low || 0) - 1, (high || 0) + 1]
  const margin = 0.05 * (high - low)
  const y = (v) => height - frame.bottom - ((v - low + margin) / (high - low + 2 * margin)) * (height - frame.top - frame.bottom)
  const column = (width - frame.left - frame.right) / data.regions.length
  const slot = (0.84 * column) / Math.max(data.groups.length, 1)
  const middle = (r, g) => frame.left + column * (r + 0.08) + slot * (g + 0.5)
  const x = value.map((_, i) => middle(region[i], group[i]) + (((i * 0.618) % 1) - 0.5) * 0.6 * slot) // by rank: the same each time

  const svg = make('svg', { viewBox: `0 0 ${width} ${height}`, role: 'application', tabindex: 0 })
  const power = 10 ** Math.floor(Math.log10((high - low) / 4))
  const tick = [1, 2, 5, 10].map((n) => n * power).find((n) => (high - low) / n <= 6)
  for (let n = Math.ceil(low / tick); n * tick <= high; n++) {
    const at = y(n * tick)
    svg.append(make('line', { x1: frame.left, x2: width - frame.right, y1: at, y2: at, stroke: n ? '#e4e4e4' : '#888' }))
    svg.append(make('text', { x: frame.left - 6, y: at + 4, 'text-anchor': 'end' }, Number((n * tick).toPrecision(6)).toString().replace('-', '−')))
  }
  const unit = data.unit ? ` ${data.unit}` : ''
  svg.append(make('text', { x: 14, y: height / 2, transform: `rotate(-90 14 ${height / 2})`, 'text-anchor': 'middle' }, `${data.symbol} (${data.unit})`))
  data.regions.forEach((name, r) => {
    svg.append(make('text', { x: frame.left + column * (r + 0.5), y: height - 8, 'text-anchor': 'middle' }, name))
    if (r) svg.append(make('line', { x1: frame.left + column * r, x2: frame.left + column * r, y1: frame.top, y2: height - frame.bottom, stroke: '#e4e4e4' }))
  })
  let from = frame.left
  for (const [name, colour, count] of data.groups) {
    const text = `${name} (${count} participant${count === 1 ? '' : 's'})`
    svg.append(make('circle', { cx: from + 5, cy: 14, r: 5, fill: colour }), make('text', { x: from + 15, y: 18 }, text))
    from += 40 + 7 * text.length
  }
  const marks = value.map((v, i) => make('circle', { cx: x[i], cy: y(v), r: value.length > 600 ? 2.5 : 4, fill: data.groups[group[i]][1], 'fill-opacity': 0.7 }))
  marks.forEach((mark, i) => {
    const page = data.pages[series[i]]
    svg.append(page ? make('a', { href: encodeURIComponent(page), tabindex: -1, 'aria-hidden': true }, mark) : mark)
  })
  for (const [r, g, ...five] of data.boxes) {
    const [bottom, q1, median, q3, top] = five.map(y)
    const at = middle(r, g)
    const half = 0.36 * slot
    const path = `M${at - half} ${q1}V${q3}H${at + half}V${q1}ZM${at} ${q1}V${bottom}M${at} ${q3}V${top}M${at - half / 2} ${bottom}H${at + half / 2}M${at - half / 2} ${top}H${at + half / 2}`
    svg.append(make('path', { d: path, fill: 'none', stroke: '#222', 'stroke-width': 1.1, 'pointer-events': 'none' }))
    svg.append(make('path', { d: `M${at - half} ${median}H${at + half}`, stroke: '#222', 'stroke-width': 2, 'pointer-events': 'none' }))
  }
  const rings = make('g', { fill: 'none', stroke: '#000', 'stroke-width': 1.5, 'pointer-events': 'none' })
  svg.append(rings)

  const said = document.createElement('output')
  said.setAttribute('aria-live', 'polite')
  const help = `Point at a participant, or use the arrow keys: up and down within a group, left and right between groups. A click, or Enter, opens the participant's page.${data.cut ? ' There are too many participants to draw all: points are those beyond the whiskers.' : ''}`
  said.textContent = help
  svg.setAttribute('aria-label', `Interactive chart: ${data.symbol} by region and group. ${help}`)
  let now = -1
  const look = (i) => {
    now = i
    rings.replaceChildren()
    if (i < 0) return (said.textContent = help)
    series.forEach((one, j) => {
      if (one === series[i]) rings.append(make('circle', { cx: x[j], cy: y(value[j]), r: j === i ? 8 : 5.5 }))
    })
    const measured = `${data.symbol} ${String(value[i]).replace('-', '−')}${unit}`
    said.textContent = `${data.names[series[i]]}: ${data.regions[region[i]]}, ${data.groups[group[i]][0]}: ${measured}`
    const tip = `${data.names[series[i]]}: ${measured}`
    const long = 7 * tip.length + 14
    const from = Math.max(frame.left, Math.min(width - frame.right - long, x[i] - long / 2))
    const over = y(value[i]) - (y(value[i]) > frame.top + 40 ? 36 : -14)
    rings.append(make('rect', { x: from, y: over, width: long, height: 22, rx: 4, fill: '#fff', stroke: '#222', 'stroke-width': 1 }))
    rings.append(make('text', { class: 'tip', x: from + long / 2, y: over + 15, 'text-anchor': 'middle', fill: '#1d2329', stroke: 'none' }, tip))
  }
  const nearest = (event) => {
    const box = svg.getBoundingClientRect()
    const scale = width / box.width
    const [px, py] = [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale]
    let best = -1
    let least = 12 ** 2
    for (let i = 0; i < value.length; i++) {
      const distance = (x[i] - px) ** 2 + (y(value[i]) - py) ** 2
      if (distance < least) [best, least] = [i, distance]
    }
    return best
  }
  svg.addEventListener('pointermove', (event) => {
    const i = nearest(event)
    if (i !== now && i >= 0) look(i)
  })
  const cell = (i) => region[i] * data.groups.length + group[i]
  const open = (i) => i >= 0 && data.pages[series[i]] && location.assign(encodeURIComponent(data.pages[series[i]]))
  svg.addEventListener('click', (event) => {
    if (!event.target.closest('a')) open(nearest(event))
  })
  svg.addEventListener('keydown', (event) => {
    const moves = { ArrowUp: [0, 1], ArrowDown: [0, -1], ArrowRight: [1, 0], ArrowLeft: [-1, 0] }
    if (event.key === 'Enter') return open(now)
    if (event.key === 'Escape') return look(-1)
    const move = moves[event.key]
    if (!move || !value.length) return
    event.preventDefault()
    if (now < 0) return look(0)
    const [aside, along] = move
    if (along) return now + along in value && cell(now + along) === cell(now) && look(now + along)
    // the points are sorted by cell: the next cell that has any, at the nearest value
    let best = -1
    for (let i = now; i >= 0 && i < value.length; i += aside) {
      if (cell(i) === cell(now)) continue
      if (best >= 0 && cell(i) !== cell(best)) break
      if (best < 0 || Math.abs(value[i] - value[now]) < Math.abs(value[best] - value[now])) best = i
    }
    if (best >= 0) look(best)
  })
  place.append(svg, said)
  const picture = source.parentElement.querySelector('img')
  picture.classList.add('printed')
  picture.after(place)
}
