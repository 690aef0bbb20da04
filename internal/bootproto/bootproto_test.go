package bootproto

import (
	"encoding/binary"
	"testing"
)

// The marks are the text that their comments say.
func TestMarks(t *testing.T) {
	text := func(values ...uint64) string {
		var b []byte
		for _, v := range values {
			b = binary.LittleEndian.AppendUint64(b, v)
		}
		return string(b)
	}
	if got := text(Mark0, Mark1); got != "vtx-ring0-boot\x00\x01" {
		t.Errorf("mark %q", got)
	}
	if got := text(ParamsMagic); got != "vtxparm1" {
		t.Errorf("parameter block's magic %q", got)
	}
}

// Fields of eight bytes (the seed has sixteen) fill each table without a gap
// or an overlap.
func TestLayouts(t *testing.T) {
	for name, table := range map[string]struct {
		fields []int
		size   int
	}{
		"parameter block": {[]int{ParamMagic, ParamSize, ParamFlags, ParamTSC, ParamEpoch, ParamSeed, ParamSeed + 8, ParamEntry, ParamArgc,
			ParamEnvc, ParamDirc, ParamStrings, ParamSegments, ParamSegc, ParamModules, ParamModc}, ParamHeader},
		"segment row": {[]int{SegmentAddr, SegmentFileSize, SegmentMemSize, SegmentFlags}, SegmentBytes},
		"module row":  {[]int{ModuleAddr, ModuleSize, ModuleName, ModuleName + 8}, ModuleBytes},
	} {
		for i, at := range table.fields {
			if at != 8*i {
				t.Errorf("%s: field %d lies at %d, want %d", name, i, at, 8*i)
			}
		}
		if 8*len(table.fields) != table.size {
			t.Errorf("%s: %d bytes, want %d", name, 8*len(table.fields), table.size)
		}
	}
	if MarkBytes != 3*8 || FrameHead != len(FrameMark)+1+4 || Stats != 8 {
		t.Errorf("mark %d, frame head %d, statistics %d", MarkBytes, FrameHead, Stats)
	}
	if LoaderBase >= ParamsBase || ParamsBase >= LoaderEnd || LoaderEnd%0x200000 != 0 {
		t.Errorf("memory %#x, %#x, %#x", LoaderBase, ParamsBase, LoaderEnd)
	}
	flags := FlagFramed | FlagSkipIdle | FlagFixed
	if flags != 7 {
		t.Errorf("flags overlap: %#x", flags)
	}
}
