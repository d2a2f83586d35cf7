/* dtype.c - the table of element types. */
#include "core/dtype.h"

#include <string.h>

enum { FLOAT8_E4M3FN = 10 /* DLPack 1.1 has its code, and the caller's dlpack.h may be older */ };
_Static_assert(sizeof(DLDataType) == 4, "no padding: dtypes are compared as bytes");

static const struct {
  const char *name;
  DLDataType dtype;
} table[FM_DTYPES] = {
    [FM_BF16] = {"bfloat16", {kDLBfloat, 16, 1}}, [FM_FP16] = {"float16", {kDLFloat, 16, 1}},
    [FM_FP32] = {"float32", {kDLFloat, 32, 1}},   [FM_INT32] = {"int32", {kDLInt, 32, 1}},
    [FM_INT64] = {"int64", {kDLInt, 64, 1}},      [FM_UINT8] = {"uint8", {kDLUInt, 8, 1}},
    [FM_INT8] = {"int8", {kDLInt, 8, 1}},         [FM_E4M3] = {"float8_e4m3fn", {FLOAT8_E4M3FN, 8, 1}},
};

const char *fm_dtype_name(int32_t dtype) { return dtype >= 0 && dtype < FM_DTYPES ? table[dtype].name : "any"; }

int32_t fm_dtype_bytes(fm_dtype dtype) { return table[dtype].dtype.bits / 8; }

fm_dtype fm_dtype_of(DLDataType dtype) {
  fm_dtype found = 0;
  while (found < FM_DTYPES && memcmp(&table[found].dtype, &dtype, sizeof dtype) != 0) ++found;
  return found;
}

/* Names of DLPack's type codes (dlpack.h, DLDataTypeCode, 1.1). */
static const struct {
  const char *name;
  uint8_t bits; /* which the name says; 0: they stand behind it */
} codes[] = {
    {"int", 0},
    {"uint", 0},
    {"float", 0},
    {"handle", 0},
    {"bfloat", 0},
    {"complex", 0},
    {"bool", 8},
    {"float8_e3m4", 8},
    {"float8_e4m3", 8},
    {"float8_e4m3b11fnuz", 8},
    {"float8_e4m3fn", 8},
    {"float8_e4m3fnuz", 8},
    {"float8_e5m2", 8},
    {"float8_e5m2fnuz", 8},
    {"float8_e8m0fnu", 8},
    {"float6_e2m3fn", 6},
    {"float6_e3m2fn", 6},
    {"float4_e2m1fn", 4},
};

fm_text fm_describe_dtype(DLDataType dtype) {
  fm_text text = {""};
  const bool known = dtype.code < sizeof codes / sizeof codes[0];
  const uint8_t bits = known ? codes[dtype.code].bits : 0;
  if (!known || (bits != 0 && bits != dtype.bits))
    fm_append(&text, "code %d, %d bits", dtype.code, dtype.bits);
  else if (bits == 0)
    fm_append(&text, "%s%d", codes[dtype.code].name, dtype.bits);
  else
    fm_append(&text, "%s", codes[dtype.code].name);
  if (dtype.lanes != 1) fm_append(&text, "x%d", dtype.lanes);
  return text;
}

fm_text fm_describe_dtypes(uint32_t set) {
  fm_text text = {""};
  for (uint32_t i = 0, rest = set; i < FM_DTYPES; ++i) {
    if ((set & FM_ONLY(i)) == 0) continue;
    const char *joint = rest == set ? "" : (rest & ~FM_ONLY(i)) == 0 ? " or " : ", ";
    rest &= ~FM_ONLY(i);
    fm_append(&text, "%s%s", joint, table[i].name);
  }
  return text;
}
