"""What is read off a compiled program's text, here a small one by hand."""

from absl.testing import absltest
from absl.testing import parameterized

from benchmarks import hlo

# In the form in which libtpu writes: a loop of 12 layers whose weights lie in
# the large memory and whose state lies in the small one, S(1).
_TEXT = """\
HloModule jit_f, is_scheduled=true

%layer (param_0: f32[1024,512], param_1: f32[12,512,512], n: s32[]) -> \
f32[1024,512] {
  %param_0 = f32[1024,512]{1,0:T(8,128)S(1)} parameter(0)
  %param_1 = f32[12,512,512]{2,1,0:T(8,128)} parameter(1)
  %n = s32[]{:T(128)S(6)} parameter(2)
  %slice.1 = f32[1,512,512]{2,1,0:T(8,128)} dynamic-slice(%param_1, %n, %n, \
%n), dynamic_slice_sizes={1,512,512}
  %kernel = f32[512,512]{1,0:T(8,128)} bitcast(%slice.1)
  ROOT %product = f32[1024,512]{1,0:T(8,128)S(1)} convolution(%param_0, \
%kernel), dim_labels=bf_io->bf, operand_precision={highest,highest}, \
metadata={op_name="dot_general"}
}

%body (state: (s32[], f32[1024,512], f32[12,512,512])) -> (s32[], \
f32[1024,512], f32[12,512,512]) {
  %state = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, \
/*index=2*/f32[12,512,512]{2,1,0:T(8,128)}) parameter(0)
  %i = s32[]{:T(128)S(6)} get-tuple-element(%state), index=0
  %x = f32[1024,512]{1,0:T(8,128)S(1)} get-tuple-element(%state), index=1
  %w = f32[12,512,512]{2,1,0:T(8,128)} get-tuple-element(%state), index=2
  %next = f32[1024,512]{1,0:T(8,128)S(1)} fusion(%x, %w, %i), kind=kOutput, \
calls=%layer
  ROOT %tuple.1 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, \
f32[12,512,512]{2,1,0:T(8,128)}) tuple(%i, %next, %w)
}

%condition (state.1: (s32[], f32[1024,512], f32[12,512,512])) -> pred[] {
  %state.1 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, \
f32[12,512,512]{2,1,0:T(8,128)}) parameter(0)
  %i.1 = s32[]{:T(128)S(6)} get-tuple-element(%state.1), index=0
  %bound = s32[]{:T(128)S(6)} constant(12)
  ROOT %below = pred[]{:T(512)S(6)} compare(%i.1, %bound), direction=LT
}

%update (buffer: f32[64,128], rows: f32[8,128], k: s32[]) -> f32[64,128] {
  %buffer = f32[64,128]{1,0:T(8,128)} parameter(0)
  %rows = f32[8,128]{1,0:T(8,128)} parameter(1)
  %k = s32[]{:T(128)S(6)} parameter(2)
  ROOT %updated = f32[64,128]{1,0:T(8,128)} dynamic-update-slice(%buffer, \
%rows, %k, %k)
}

ENTRY %main (x.0: f32[1024,512], w.0: f32[12,512,512], b: f32[64,128], r: \
f32[8,128]) -> f32[1024,512] {
  %x.0 = f32[1024,512]{1,0:T(8,128)} parameter(0)
  %w.0 = f32[12,512,512]{2,1,0:T(8,128)} parameter(1)
  %b = f32[64,128]{1,0:T(8,128)} parameter(2)
  %r = f32[8,128]{1,0:T(8,128)} parameter(3)
  %zero = s32[]{:T(128)S(6)} constant(0)
  %copy-start = (f32[1024,512]{1,0:T(8,128)S(1)}, \
f32[1024,512]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%x.0)
  %copy-done = f32[1024,512]{1,0:T(8,128)S(1)} copy-done(%copy-start)
  %tuple.0 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, \
f32[12,512,512]{2,1,0:T(8,128)}) tuple(%zero, %copy-done, %w.0)
  %while.1 = (s32[]{:T(128)}, f32[1024,512]{1,0:T(8,128)S(1)}, \
f32[12,512,512]{2,1,0:T(8,128)}) while(%tuple.0), condition=%condition, \
body=%body
  %changed = f32[64,128]{1,0:T(8,128)} fusion(%b, %r, %zero), kind=kLoop, \
calls=%update
  %y = f32[1024,512]{1,0:T(8,128)S(1)} get-tuple-element(%while.1), index=1
  ROOT %all-reduce = f32[1024,512]{1,0:T(8,128)} all-reduce(%y), \
replica_groups={{0,1,2,3}}, to_apply=%condition
}
"""
_STATE, _KERNEL = 1024 * 512 * 4, 512 * 512 * 4


class HloTest(parameterized.TestCase):

  def test_loops_and_memories(self):
    found = hlo.traffic(hlo.parse(_TEXT))
    # The state once at the beginning and once at the end, each layer's weights
    # once, and the rows that are updated in place.
    in_place = 2 * 8 * 128 * 4
    self.assertEqual(found.bytes, 2 * _STATE + 12 * _KERNEL + in_place)
    self.assertEqual(found.unknown_loops, 0)
    self.assertEqual(hlo.loops(hlo.parse(_TEXT)), [12])

  def test_a_loop_of_unknown_length_counts_once_and_is_told(self):
    text = _TEXT.replace("direction=LT", "direction=NE")
    found = hlo.traffic(hlo.parse(text))
    self.assertEqual(found.bytes, 2 * _STATE + _KERNEL + 2 * 8 * 128 * 4)
    self.assertEqual(found.unknown_loops, 1)

  def test_what_is_written_into_the_small_memory_is_no_traffic(self):
    larger = _TEXT.replace("f32[1024,512]{1,0:T(8,128)S(1)}",
                           "f32[1024,512]{1,0:T(8,128)}")
    self.assertEqual(
        hlo.traffic(hlo.parse(larger)).bytes -
        hlo.traffic(hlo.parse(_TEXT)).bytes, (1 + 2 * 12 + 1) * _STATE)

  @parameterized.parameters(
      ("f32[197,197]{1,0:T(8,128)}", 200 * 256 * 4),
      ("bf16[197,197]{1,0:T(8,128)(2,1)}", 200 * 256 * 2),
      ("f32[197,3]{0,1:T(4,128)}", 256 * 4 * 4),
      ("f32[5]{0:T(128)}", 128 * 4), ("s32[]{:T(128)}", 4),
      ("f32[10,3]{1,0}", 30 * 4), ("pred[8,128]{1,0:T(8,128)(4,1)}", 1024),
      ("(f32[128]{0:T(128)}, bf16[128]{0:T(256)S(1)})", 128 * 4))
  def test_arrays_lie_in_whole_tiles(self, shape, expected):
    text = (f"ENTRY %main (x: f32[1]) -> f32[1] {{\n  %x = {shape} "
            f"parameter(0)\n  ROOT %y = f32[0]{{0}} negate(%x)\n}}\n")
    self.assertEqual(hlo.traffic(hlo.parse(text)).bytes, expected)

  def test_products(self):
    self.assertEqual(hlo.products(hlo.parse(_TEXT)), {"f32 f32, highest": 1})
    alone = _TEXT.replace(", operand_precision={highest,highest}", "")
    self.assertEqual(hlo.products(hlo.parse(alone)), {"f32 f32, default": 1})

  def test_collectives(self):
    self.assertEqual(hlo.collectives(hlo.parse(_TEXT)), {"all-reduce": 1})
    begun = _TEXT.replace("all-reduce(", "all-gather-start(")
    self.assertEqual(hlo.collectives(hlo.parse(begun)), {"all-gather": 1})

  def test_another_text(self):
    with self.assertRaisesRegex(ValueError, "with an ENTRY computation"):
      hlo.parse("module @jit_f {}")


if __name__ == "__main__":
  absltest.main()
