'use strict'
/* The viewer of a participant's page: unpacks volumes and library from the page when it is opened.
   No network: the policy of the page forbids it. bidsQsmViewer is for tests and the console. */
const bidsQsmViewer = (() => {
  const home = document.getElementById('viewer')
  const find = (selector) => home.querySelector(selector)
  const content = JSON.parse(document.getElementById('viewer-content').textContent)
  const NOTHING = -32768 // outside the mask
  const cache = new Map()
  const here = { series: null, map: null, over: null, shown: new Set(), at: null }
  const windows = new Map() // what the user set, by map
  const overWindows = new Map() // the same of maps over another
  let drawn = null // map under the controls; here.map may still be unpacking
  let laid = null // the same of the map over it
  let back = null // button that jumped here
  const broken = new Set() // layers that cannot be unpacked
  let calls = 0
  let jumps = 0
  let nv = null
  let opening = null

  async function unpack(id) {
    const bytes = Uint8Array.from(atob(document.getElementById(id).textContent.trim()), (c) => c.charCodeAt(0))
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream('gzip'))
    return new Uint8Array(await new Response(stream).arrayBuffer())
  }

  /* Low bytes, then high bytes, of differences from the median of three neighbours, with the sign in the lowest
     bit: see `packed` in bids_qsm/plotting/volumes.py. */
  async function values(layer) {
    if (!cache.has(layer.data)) {
      const planes = await unpack(layer.data)
      const n = planes.length / 2
      const found = new Int16Array(n)
      const [nx, ny] = layer.shape
      for (let i = 0, x = 0, y = 0, z = 0; i < n; i++) {
        const a = x ? found[i - 1] : 0
        const b = y ? found[i - nx] : 0
        const c = z ? found[i - nx * ny] : 0
        const median = Math.max(Math.min(a, b), Math.min(Math.max(a, b), c))
        const zigzag = planes[i] | (planes[n + i] << 8)
        found[i] = median + ((zigzag >>> 1) ^ -(zigzag & 1)) // modulo 2**16
        if (++x === nx) {
          x = 0
          if (++y === ny) [y, z] = [0, z + 1]
        }
      }
      cache.set(layer.data, found)
    }
    return cache.get(layer.data)
  }

  function nifti(data, layer) {
    const buffer = new ArrayBuffer(352 + data.byteLength)
    const head = new DataView(buffer)
    const { affine } = layer
    head.setInt32(0, 348, true)
    ;[3, ...layer.shape, 1, 1, 1, 1].forEach((n, i) => head.setInt16(40 + 2 * i, n, true))
    head.setInt16(70, 4, true) // int16
    head.setInt16(72, 16, true)
    const size = [0, 1, 2].map((j) => Math.hypot(affine[0][j], affine[1][j], affine[2][j]))
    ;[1, ...size].forEach((v, i) => head.setFloat32(76 + 4 * i, v, true))
    head.setFloat32(108, 352, true)
    head.setFloat32(112, layer.step || 1, true)
    head.setUint8(123, 2) // mm
    head.setInt16(254, 1, true)
    affine.slice(0, 3).flat().forEach((v, i) => head.setFloat32(280 + 4 * i, v, true))
    ;[0x6e, 0x2b, 0x31, 0].forEach((c, i) => head.setUint8(344 + i, c))
    new Int16Array(buffer, 352).set(data)
    return buffer
  }

  /* What has no value must be as the end of the window that is not drawn, or beyond it: in colours over
     another map, and where the lowest value has the strongest colour. */
  function clear(data, layer, low, high, turned) {
    const found = Int16Array.from(data)
    const end = turned ? Math.ceil(high / layer.step) : Math.floor(low / layer.step)
    const none = Math.max(-32767, Math.min(32767, end))
    for (let i = 0; i < found.length; i++) if (found[i] === NOTHING) found[i] = none
    return found
  }

  const isTurned = (layer) => layer.step > 0 && layer.colours.endsWith('_r')

  /* Add colours with a clear one at the end that is not drawn, and from the last to the first where the name ends
     in _r; give their name. The clear one is black, as the first image has no transparency. */
  function framed(name) {
    const found = nv.colormapFromKey(name.replace('_r', ''))
    const A = found.I.map(() => 255)
    let table = { ...found, A, I: found.I.map((i) => 1 + Math.round((254 * i) / 255)) }
    table = Object.fromEntries(['R', 'G', 'B', 'A', 'I'].map((key) => [key, [0, ...table[key]]]))
    if (name.endsWith('_r')) {
      for (const key of ['R', 'G', 'B', 'A']) table[key].reverse()
      table.I = table.I.reverse().map((i) => 255 - i)
    }
    nv.addColormap(`framed ${name}`, table)
    return `framed ${name}`
  }

  async function image(layer, opacity, isOver = false) {
    const data = await values(layer)
    const kept = isOver ? overWindows : windows
    const [low, high] = layer.step ? kept.get(layer) || [layer.low, layer.high] : [0, layer.names.length]
    const turned = isTurned(layer)
    const colours = !layer.step ? 'gray' : isOver && layer.colours === 'gray' ? 'viridis' : layer.colours
    const buffer = nifti(isOver || turned ? clear(data, layer, low, high, turned) : data, layer)
    const one = await niivue.NVImage.new(buffer, `${layer.data}.nii`, layer.step && colours !== 'gray' ? framed(colours) : colours, opacity, null, low, high)
    if (!layer.step) {
      // NiiVue draws no voxel with the first two of 256 parts of a table, so that of the background begins below 0
      const below = Math.ceil((layer.names.length + 1) / 127)
      const none = Array(below + 1).fill(0)
      const part = (from) => [...none, ...layer.colours.map((c) => parseInt(c.slice(from, from + 2), 16))]
      const table = { R: part(1), G: part(3), B: part(5), A: [...none, ...layer.names.map(() => 255)] }
      one.setColormapLabel({ ...table, I: table.A.map((_, i) => i - below), labels: [...none.map(() => ''), ...layer.names] })
      one.colorbarVisible = false
    }
    return one
  }

  const round = (value, layer) =>
    layer.unit ? value.toFixed(Math.max(0, Math.ceil(-Math.log10(layer.step) - 0.01))) : String(Number(value.toPrecision(3)))

  /* Whole number of a layer in the voxel nearest to a place (mm). */
  async function nearest(layer, mm) {
    const { inverse, shape } = layer
    const [x, y, z] = [0, 1, 2].map((i) => Math.round(inverse[i][0] * mm[0] + inverse[i][1] * mm[1] + inverse[i][2] * mm[2] + inverse[i][3]))
    const outside = [x, y, z].some((v, i) => v < 0 || v >= shape[i])
    if (outside || broken.has(layer)) return NOTHING
    try {
      return (await values(layer))[x + shape[0] * (y + shape[1] * z)]
    } catch {
      leaveOut(layer)
      return NOTHING
    }
  }

  /* The other layers are shown without one that cannot be unpacked. */
  function leaveOut(layer) {
    broken.add(layer)
    tellBroken()
  }

  function tellBroken() {
    const named = here.series.maps.concat(here.series.labels).filter((one) => broken.has(one))
    find('.broken').textContent = `Left out, as the page is damaged there: ${named.map((one) => one.title).join(', ')}.`
    find('.broken').hidden = !named.length
  }

  /* What all images of the series hold there. */
  async function read(mm) {
    const found = { values: {}, labels: {} }
    for (const layer of here.series.maps) {
      const value = await nearest(layer, mm)
      if (value !== NOTHING) found.values[layer.key] = value * layer.step
    }
    for (const layer of here.series.labels) {
      const label = await nearest(layer, mm)
      if (label > 0) found.labels[layer.key] = layer.names[label - 1]
    }
    return found
  }

  async function tell(mm) {
    here.at = mm
    const found = await read(mm)
    if (here.at !== mm) return
    const place = ['x', 'y', 'z'].map((axis, i) => `${axis} ${mm[i].toFixed(1)}`).join(', ')
    const measured = here.series.maps.filter((m) => m.key in found.values).map((m) => `${m.symbol} ${round(found.values[m.key], m)} ${m.unit}`.trim())
    const under = here.series.labels.filter((layer) => layer.key in found.labels)
    const named = under.map(({ key, title, names }) => (names.length === 1 && names[0] === '1' ? title : `${title}: ${found.labels[key]}`))
    find('output').textContent = [`${place} mm`, ...measured, ...named].join('; ')
  }

  function options(select, entries) {
    select.replaceChildren(...entries.map(([value, text]) => new Option(text, value)))
  }

  /* Draw what was chosen; of several calls at a time the last one counts. */
  async function show() {
    const call = ++calls
    const { map, over } = here
    const labels = here.series.labels.filter((layer) => here.shown.has(layer.key))
    const opacity = Number(find('[name=opacity]').value)
    const images = []
    let overIs = null
    for (const [layer, isOver] of [[map], ...(over ? [[over, true]] : []), ...labels.map((layer) => [layer])]) {
      try {
        images.push(await image(layer, images.length ? opacity : 1, isOver))
        if (isOver) overIs = layer
      } catch {
        if (call === calls) leaveOut(layer)
      }
      if (call !== calls) return
      if (!images.length) return instead()
    }
    const at = here.at
    drawn = map
    laid = overIs
    while (nv.volumes.length) nv.removeVolumeByIndex(0)
    for (const one of images) nv.addVolume(one)
    jump(at || [0, 1, 2].map((i) => nv.frac2mm([0.5, 0.5, 0.5], 0, true)[i]))
    window_()
  }

  /* Another map as the first, where that which was chosen is damaged. */
  function instead() {
    const other = here.series.maps.find((one) => !broken.has(one))
    if (!other) throw new Error(`the images of ${here.series.name} are damaged`)
    here.map = other
    find('[name=map]').value = other.key
    return show()
  }

  function window_() {
    const [base, over] = nv.volumes
    const ends = [['low', base.cal_min], ['high', base.cal_max], ...(laid ? [['overlow', over.cal_min], ['overhigh', over.cal_max]] : [])]
    for (const [name, value] of ends) find(`[name=${name}]`).value = Number(value.toPrecision(4))
    find('.unit').textContent = drawn.unit
    find('.overwindow').hidden = !laid
    find('.overunit').textContent = laid ? laid.unit : ''
  }

  function keep() {
    windows.set(drawn, [nv.volumes[0].cal_min, nv.volumes[0].cal_max])
    window_()
    if (isTurned(drawn)) return show() // as in colours over another map
  }

  function jump(mm) {
    nv.scene.crosshairPos = nv.mm2frac(mm, 0, true)
    nv.createOnLocationChange()
    nv.drawScene()
  }

  async function choose(series) {
    here.series = series
    tellBroken()
    here.map = series.maps.find((m) => here.map && m.key === here.map.key) || series.maps[0]
    here.over = series.maps.find((m) => here.over && m.key === here.over.key) || null
    here.shown = new Set(series.labels.filter((l) => here.shown.has(l.key)).map((l) => l.key))
    here.at = null
    find('[name=series]').value = content.indexOf(series)
    options(find('[name=map]'), series.maps.map((m) => [m.key, m.title]))
    find('[name=map]').value = here.map.key
    options(find('[name=over]'), [['', 'none'], ...series.maps.map((m) => [m.key, m.title])])
    find('[name=over]').value = here.over ? here.over.key : ''
    find('.labels').replaceChildren(
      ...series.labels.map((layer) => {
        const label = document.createElement('label')
        const box = document.createElement('input')
        box.type = 'checkbox'
        box.checked = here.shown.has(layer.key)
        box.addEventListener('change', () => {
          here.shown[box.checked ? 'add' : 'delete'](layer.key)
          show()
        })
        label.append(box, ` ${layer.title}`)
        return label
      })
    )
    await show()
  }

  function steer(event) {
    if (event.key === 'Escape') return (back || find('[name=map]')).focus()
    const side = find('[name=turned]').checked ? -1 : 1
    const moves = { ArrowLeft: [-side, 0, 0], ArrowRight: [side, 0, 0], ArrowUp: [0, 1, 0], ArrowDown: [0, -1, 0], PageUp: [0, 0, 1], PageDown: [0, 0, -1] }
    const move = moves[event.key]
    if (!move || event.ctrlKey || event.altKey || event.metaKey) return
    event.preventDefault()
    event.stopImmediatePropagation()
    nv.moveCrosshairInVox(...move)
  }

  async function start() {
    const library = new Blob([await unpack('viewer-library')], { type: 'text/javascript' })
    const script = document.createElement('script')
    script.src = URL.createObjectURL(library)
    await new Promise((done, failed) => {
      script.onload = done
      script.onerror = failed
      document.head.append(script)
    })
    URL.revokeObjectURL(script.src)
    find('.room').hidden = false
    nv = new niivue.Niivue({
      backColor: [0, 0, 0, 1], crosshairColor: [1, 0.82, 0.12, 0.8], crosshairWidth: 0.6, crosshairWidthUnit: 'mm', crosshairGap: 6, fontColor: [1, 1, 1, 1], fontMinPx: 15, isColorbar: true,
      multiplanarForceRender: true, multiplanarLayout: 2, dragAndDropEnabled: false, scrollRequiresFocus: true, logLevel: 'error', loadingText: '',
    })
    const canvas = find('canvas')
    canvas.addEventListener('keydown', steer, true)
    await nv.attachToCanvas(canvas, false)
    nv.onLocationChange = (location) => tell(Array.from(location.mm).slice(0, 3))
    nv.onIntensityChange = keep
    options(find('[name=series]'), content.map((one, i) => [i, one.name]))
    const on = (name, act) => find(`[name=${name}]`).addEventListener('change', (event) => act(event.target))
    on('series', (box) => choose(content[box.value]))
    on('map', (box) => {
      here.map = here.series.maps.find((m) => m.key === box.value)
      show()
    })
    on('over', (box) => {
      here.over = here.series.maps.find((m) => m.key === box.value) || null
      show()
    })
    on('view', (box) => nv.setSliceType(Number(box.value)))
    on('turned', (box) => nv.setRadiologicalConvention(box.checked))
    on('opacity', (box) => nv.volumes.slice(1).forEach((_, i) => nv.setOpacity(i + 1, Number(box.value))))
    const set = (low, high) => {
      if (!(low < high)) return window_()
      Object.assign(nv.volumes[0], { cal_min: low, cal_max: high })
      nv.updateGLVolume()
      keep()
    }
    const typed = () => set(Number(find('[name=low]').value), Number(find('[name=high]').value))
    on('low', typed)
    on('high', typed)
    // drawn anew, as what has no value is put at the end of the window that is not drawn
    const typedOver = () => {
      const [low, high] = ['overlow', 'overhigh'].map((name) => Number(find(`[name=${name}]`).value))
      if (!(low < high)) return window_()
      overWindows.set(laid, [low, high])
      return show()
    }
    on('overlow', typedOver)
    on('overhigh', typedOver)
    find('[name=reset]').addEventListener('click', () => {
      set(drawn.low, drawn.high)
      windows.delete(drawn)
      if (overWindows.delete(laid)) show()
    })
    nv.setSliceType(3)
    await choose(content[0])
    find('.open').hidden = true
  }

  function open() {
    opening ??= start().catch((error) => {
      find('.room').hidden = true
      find('p').textContent = `The viewer cannot start here (${error.message || error.type}). The pictures below show the same maps.`
      throw error
    })
    return opening
  }

  async function go(mm, name = here.series && here.series.name) {
    const call = ++jumps
    await open()
    const series = content.find((one) => one.name === name)
    if (call === jumps && series !== here.series) await choose(series)
    if (call !== jumps) return // of several at a time the last one counts
    jump(mm)
  }

  const able = 'DecompressionStream' in window && document.createElement('canvas').getContext('webgl2')
  if (able) {
    find('.open').hidden = false
    find('.open').addEventListener('click', async () => {
      await open()
      find('[name=map]').focus() // the button is gone
    })
    for (const cell of document.querySelectorAll('[data-at]')) {
      const what = cell.textContent
      for (const [x, y, z, ...side] of cell.dataset.at.split('|').map((at) => at.split(' '))) {
        const button = document.createElement('button')
        button.className = 'jump screen'
        button.textContent = side.join(' ') || 'show'
        button.ariaLabel = `Show ${[what, ...side].join(' ')} in the viewer`
        button.addEventListener('click', async () => {
          back = button
          await go([x, y, z].map(Number), cell.closest('[data-series]').dataset.series)
          find('.stage').scrollIntoView({ block: 'center' })
          find('canvas').focus({ preventScroll: true })
        })
        cell.append(button)
      }
    }
  }
  return { open, go, read, get nv() { return nv }, get here() { return here } }
})()
