/* dtype.c - the table of element types. */
#include "core/dtype.h"

#include <string.h>

_Static_assert(sizeof(DLDataType) == 4, "no padding: dtypes are compared as bytes");

static const struct {
  const char *name;
  DLDataType dtype;
} table[FM_DTYPES] = {
    [FM_BF16] = {"bfloat16", {kDLBfloat, 16, 1}},
    [FM_FP16] = {"float16", {kDLFloat, 16, 1}},
    [FM_FP32] = {"float32", {kDLFloat, 32, 1}},
    [FM_INT32] = {"int32", {kDLInt, 32, 1}},
};

const char *fm_dtype_name(int32_t dtype) { return dtype >= 0 && dtype < FM_DTYPES ? table[dtype].name : "any"; }

int32_t fm_dtype_bytes(fm_dtype dtype) { return table[dtype].dtype.bits / 8; }

fm_dtype fm_dtype_of(DLDataType dtype) {
  fm_dtype found = 0;
  while (found < FM_DTYPES && memcmp(&table[found].dtype, &dtype, sizeof dtype) != 0) ++found;
  return found;
}

fm_text fm_describe_dtype(DLDataType dtype) {
  static const char *const codes[] = {
      [kDLInt] = "int", [kDLUInt] = "uint", [kDLFloat] = "float", [kDLBfloat] = "bfloat"};
  const char *code = dtype.code < sizeof codes / sizeof codes[0] ? codes[dtype.code] : NULL;
  fm_text text = {""};
  if (code != NULL)
    fm_append(&text, "%s%d", code, dtype.bits);
  else
    fm_append(&text, "code %d, %d bits", dtype.code, dtype.bits);
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
