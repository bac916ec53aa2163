"""The classes of Unicode 16.0 that pre-tokenization asks for, one for each code point.

A pattern such as GPT-2's knows letters, numbers, white space and the rest; others tell capital letters from small ones,
or marks from letters. Which code point is what changes with every version of Unicode. The tokenizers of others that
these here must agree with hold version 16.0; Python's `unicodedata` and the package `regex` hold other ones, which
depend on their own version. So the classes are written down here: 3,229 runs of code points, in 2.2 KB.

The table was made by asking. tiktoken 0.14, given the 256 single bytes as its only tokens and a class as its pattern,
returns the bytes of the characters that are in the class. One call for each class, with all 1,112,064 characters as the
text, gave the table; surrogates, which are not characters, were counted as "other". The tests ask anew, and also
Hugging Face's `tokenizers` 0.23, and compare every code point.

The text below is base85 of zlib of four rows of bytes: the class of each run; then the lowest, the middle and the
highest byte of its length.
"""

from __future__ import annotations

import base64
import zlib
from functools import cache

import numpy as np
from numpy.typing import NDArray

UNICODE = "16.0"
CLASSES = ("Lu", "Ll", "Lt", "Lm", "Lo", "M", "N", "White_Space", "other")
"""What the numbers 0 to 8 of the tables stand for: the general categories, with all marks and all numbers in one; the
property that ``\\s`` means in a pattern; and all the rest (signs, control characters, what is not assigned)."""
LU, LL, LT, LM, LO, MARK, NUMBER, WHITE, OTHER = range(9)

PAGE = 256
"""Code points in a row of the two-level table. Far fewer rows differ from each other than there are."""


@cache
def tables() -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """(numbers, pages): code point c has the class ``pages[numbers[c // PAGE], c % PAGE]``.

    `numbers` has 4,352 elements; all that are equal share one of the 141 rows of `pages`.
    """
    runs, lengths = _runs()
    rows = np.repeat(runs, lengths).reshape(-1, PAGE)
    number_of: dict[bytes, int] = {}
    numbers = [number_of.setdefault(row.tobytes(), len(number_of)) for row in rows]
    return np.array(numbers, np.uint8), np.frombuffer(b"".join(number_of), np.uint8).reshape(-1, PAGE)


def class_of(code_points: NDArray[np.unsignedinteger]) -> NDArray[np.uint8]:
    """The class (0 to 8) of each code point (0 to 0x10FFFF), in the shape of the argument."""
    numbers, pages = tables()
    return pages[numbers[code_points // PAGE], code_points % PAGE]


def _runs() -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """The class and the length of each run of code points, from 0 to the last."""
    rows = np.frombuffer(zlib.decompress(base64.b85decode("".join(_PACKED.split()))), np.uint8).reshape(4, -1)
    return rows[0], rows[1] + rows[2] * np.int64(1 << 8) + rows[3] * np.int64(1 << 16)


_PACKED = """
c-rk)OKe<M8J_=f9{0?hr^hq)I3AB3$FXBOcHRx3VpJLwr78i5O0Ym61QIkVWdn=uy6J``E7&2_HQVkGg0f{p7f2ukLTp*GLj3<Z_uiRtoWx0!CcvCC_
jMls`~Uu9d*_|EzUIN}8_PR*%W<d%9%?UmXZ;}*zejg`+Wdih*^Lg6nvFosmpa7jq1~UBTVnB|chQ<8icHm6y4;D4^=#xz21zcqIwK<{4qG<SjPgOT>q
1VuIj%3dL?=~K<$}nH6E~AWm@Dp63umOVY2OKy3NrqI^OF@;`QG2lMY_hExI68)enyx3>6>DErK8v}&CG~aZnM#XN|Vx}s+(y1XkuGzvE{acLaDs?#<Q
93))Wz~;eC?6v$`t-T`ONMS~_aOl~3afl@<`5Rs*DxF{xuqdbZdZ*V(8+Txg3Io2JznOg_b6%}+wc18M)SNS|kxl+|+rO@i<kyG)`?RL@%c#V=QMOKSO
K{Mr<`NsoBwAyp1<YhZoq_lrZHjLvcspU0vGF&OEjT-88y0x2S@zFH~<W3p5M81H506s;705~hz?H8heRY66m&R#~2=Iq3MeFDmF`Th&ia2C4=NAe7Kt
;1W+z&)72Sb(A!fiAy+0Nn0j<m989-K>=*yCB+@d?TW`_96Xx`;ZT9|35$s7L5O7w9E!UlsEdqK(5yjR(TUhrqG1_Ysi&jB3}r5>k-kixwu18{Xu-6C{
h6(`cr1%xDLN>$5lmHpR7y>fw{k!<Wm(~D;gq5Pa{^H1Tg7+6|LKBJndJWJSmN>Y>av!kI-KyC3+I%jw1@>;%-gD3$gm>DEV(j5$|`7l6=!UwoKr5CDf
*Q-WxNyyFKTLW649hj8|{>mMd()K?WATE`7h8wF)T`Z$I}Z<OmcrHOqWM<tWS_K=GN2!(wF&G!R$2R&O&?%+sAHjjA6v-sc%XyrP7j7b4tgx>0Hx802r
DALhJcs_mim@pP4SSf*aalfFWey5Cp{Z8h~384W6vwBfd|woiM%;vfc>`B3S%XN>pk2v_h041W(+=Jj%0T`6{e*Id2*#@13_NY=nhPj1W4Iodu)^aW!c
RUO7As|EJ&%glFBh5bTcMkGzDNUtwOYn=ypNzzE+`Gg>htV-T;l0Y)qM)jBl8dKP_+eU?ZhFx_S1x>=I!&vsx5)~^$E!3D$s&=PP)#J-w@gsRX)lrf<y
A%n8W#`qzyoR-B?n2Z_u7H>FlqR=9!Q{<MG7?oGgu?Q_87&7tWgj1T2oE#O5#M5$t6_T7nmV`XzQi4f^vCwQZjE@=B*4^^PPWOs5vfrx$kmf_8pH|qoA
PCc(RlprgGXf6ag!4iatxHQHKA@8s2{}O_QN3{}1I7x~a2{ifEy-O-Wq>AzQ9vHU0BtXMjO9eS$vv5^!)69IcY6@5WmZForj1;7Gj1s*+!c9m%MKU!?Z
~xWeYN1G++RV;dem;eftK!J2ZrVj$?>nt*#gzOm^Vaj%&(4B8NgseN0KAhvvAEB+z=+W!kQ?ZhcFU>_IPOP=LUwa1z1H{7aHK#E}4Ulr_jlA8Z|KNHS^
7$4@6;PMN2TdNNs{e79)v|&E97luyO7PUc{C?dk)@8IC*LDSq^*OjDy~bTNTqJV&y53jV#5%q_6s_#LR)_DOw}uZ(LdLK*VH>mBQE}hV;i8vj$i`u80>
t`poP7ACB%F9u{z(mPt||J$t*NEzn+~K85Z}4q7nC9L)Cd0sKB<`f_F^17!!lp}7h0HHD#F_&RYIAGXI~<e@bV=UYd=I$DGuy|QgF2WkiGJ*H?3;SsXq
t$^pUS*-rJHuJ~eA0JBC6s2ie>H^WH+F~kl37I5Gfo!;%<K=D$wrfe}!WoZ)M!rgX&}>Qo3E3<d*lA`FS%Ym0dIDY67(oR<SQ0LEqxcszU~Tl+E(i?Ty
JvkI{zX3EOZ*moZ_DMzD7ZDEyei+l^*6gmczrwPcDsFK;Jt--!l?(?$2E!+k<R9F;8_60`R2wu`F?)0gFk?GSLsp<R(Q-=PwZv3j2Ypk`~_q#Y;V6Vd^
dTMxBb<;E|H`Kp?K2O{6^Lfe#ycG$X?ajv!}p=1M~xQYd$*^UdHq-4{yCB3D(Aoih@Qmg#^~*6q5}E-BxMr;S92AUk`os3&wW`?(XdyR~lEG@b-d!;)O
nms{KE%2`{NOZMwm$0ervCavHg?=z4>UuC?kTEq593*BvyLU9hw%*4M=Kavp(<4x238wSocn>RnjQ1uNm@h~%PGa0j^wmZz(qdRnWWmNjEgYJ(B0YDjE
F9E)cobwdMJuXWi7I~pDKw5W#n4;*F##*IUP`+C^gZAksKy)!G=;+)+Fd#!Je#|ya^59+^6#F7|63G;Bv<9QcL46H!db`bw0tzQ&`@8161dMnrr&goEV
RovBw=53XBD}|p^=2lf3o2Y{e*B4k*OG<($&<OAqXf5vk^gG}0{N}Z9whkp6Tj6Ks3m=TS;lrD5O+xmIa%n9(beWVTA-QN4eo5O%;luHG@ZCEi=MBe=B
Msg<Hvi>6+6n*QXtT2|aVkQS{g3%g)1b`Bspm_<Uc|x3$e-#S-H3le@AUHCz2*0Y!=Z!ja2U_Fs0Q#H3wC`t#8{>s=!+Ve<aMf@!DUzmd(us)U9R2W%O
0B0H_*Bppl9tL9CR?c)x5k8Z|{?HC=UDF2s(QlK3V~}jU;{l?jqc`;J28$osA9o41-T=!oRi;tzWbFBpu2_IvCsXd`!jo6yBg3h2w$%9jPz|I-hU+E!e
+|KV|=n?=~;B-un6IuXoHh?*6k~o40wJw|RTK2B%($b7TD<H;fnmF9md3zFhlqQVZrzelBfSZ|m@M-1$60Xx?71Y$v^iT7g!r8V==Q@k#tWP$C=0mqAv
&whLtZgrT@>d<x^hLlvc`Dp{!U`!)Srq+eUDVTNX**8WrN-}6A7w|Seld7HO+o40wJw|Sel=ifpN{{y;3u_g
"""
