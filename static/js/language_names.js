// Names of FLORES-200 codes in the page's language, by the browser as far as it knows them. Knows no page.

// What Chromium has no name for, in English and in Japanese; twi it would call Akan, which is another code's.
const NAMES = {
  ace: ["Acehnese", "アチェ語"],
  acm: ["Mesopotamian Arabic", "メソポタミア・アラビア語"],
  acq: ["Ta’izzi-Adeni Arabic", "タイズ・アデン・アラビア語"],
  aeb: ["Tunisian Arabic", "チュニジア・アラビア語"],
  ajp: ["South Levantine Arabic", "南レバント・アラビア語"],
  apc: ["North Levantine Arabic", "北レバント・アラビア語"],
  ars: ["Najdi Arabic", "ナジュド・アラビア語"],
  ary: ["Moroccan Arabic", "モロッコ・アラビア語"],
  arz: ["Egyptian Arabic", "エジプト・アラビア語"],
  awa: ["Awadhi", "アワディー語"],
  azb: ["South Azerbaijani", "南アゼルバイジャン語"],
  bak: ["Bashkir", "バシキール語"],
  ban: ["Balinese", "バリ語"],
  bem: ["Bemba", "ベンバ語"],
  bjn: ["Banjar", "バンジャル語"],
  bod: ["Tibetan", "チベット語"],
  bug: ["Buginese", "ブギス語"],
  cjk: ["Chokwe", "チョクウェ語"],
  crh: ["Crimean Tatar", "クリミア・タタール語"],
  dik: ["Southwestern Dinka", "南西ディンカ語"],
  dyu: ["Dyula", "ジュラ語"],
  dzo: ["Dzongkha", "ゾンカ語"],
  fij: ["Fijian", "フィジー語"],
  fon: ["Fon", "フォン語"],
  fur: ["Friulian", "フリウリ語"],
  fuv: ["Nigerian Fulfulde", "ナイジェリア・フラニ語"],
  hne: ["Chhattisgarhi", "チャッティースガリー語"],
  kab: ["Kabyle", "カビル語"],
  kac: ["Jingpho", "カチン語"],
  kam: ["Kamba", "カンバ語"],
  kas: ["Kashmiri", "カシミール語"],
  kbp: ["Kabiyè", "カビエ語"],
  kea: ["Kabuverdianu", "カーボベルデ・クレオール語"],
  kik: ["Kikuyu", "キクユ語"],
  kmb: ["Kimbundu", "キンブンド語"],
  knc: ["Central Kanuri", "中央カヌリ語"],
  kon: ["Kikongo", "コンゴ語"],
  lij: ["Ligurian", "リグリア語"],
  lim: ["Limburgish", "リンブルフ語"],
  lmo: ["Lombard", "ロンバルド語"],
  ltg: ["Latgalian", "ラトガリア語"],
  lua: ["Luba-Kasai", "ルバ語"],
  luo: ["Luo", "ルオ語"],
  mag: ["Magahi", "マガヒー語"],
  min: ["Minangkabau", "ミナンカバウ語"],
  mos: ["Mossi", "モシ語"],
  nus: ["Nuer", "ヌエル語"],
  pag: ["Pangasinan", "パンガシナン語"],
  pap: ["Papiamento", "パピアメント語"],
  pbt: ["Southern Pashto", "南パシュトー語"],
  quy: ["Ayacucho Quechua", "アヤクチョ・ケチュア語"],
  run: ["Rundi", "ルンディ語"],
  sag: ["Sango", "サンゴ語"],
  sat: ["Santali", "サンタル語"],
  scn: ["Sicilian", "シチリア語"],
  shn: ["Shan", "シャン語"],
  srd: ["Sardinian", "サルデーニャ語"],
  ssw: ["Swati", "スワジ語"],
  szl: ["Silesian", "シレジア語"],
  taq: ["Tamasheq", "タマシェク語"],
  tpi: ["Tok Pisin", "トク・ピシン語"],
  tum: ["Tumbuka", "トゥンブカ語"],
  twi: ["Twi", "トウィ語"],
  tzm: ["Central Atlas Tamazight", "中央アトラス・タマジクト語"],
  umb: ["Umbundu", "ウンブンドゥ語"],
  vec: ["Venetian", "ヴェネト語"],
  war: ["Waray", "ワライ語"],
};
const FIRST = ["eng_Latn", "jpn_Jpan"];

// [[{code, name}, …], …]: the languages that most readers look for, then all others by name.
export function namedLanguages(codes, language) {
  const inSeveral = repeated(codes.map((code) => code.split("_")[0]));
  const named = codes.map((code) => ({ code, name: nameOf(code, language, inSeveral.has(code.split("_")[0])) }));
  const ambiguous = repeated(named.map(({ name }) => name));
  for (const one of named) if (ambiguous.has(one.name)) one.name = `${one.name} (${one.code})`;
  named.sort((left, right) => left.name.localeCompare(right.name, language));
  const first = FIRST.flatMap((code) => named.filter((one) => one.code === code));
  return [first, named.filter((one) => !FIRST.includes(one.code))].filter((group) => group.length > 0);
}

function repeated(values) {
  return new Set(values.filter((value, at) => values.indexOf(value) !== at));
}

// The script is told only where the model knows the language in several.
function nameOf(code, language, withScript) {
  const [base, script] = code.split("_");
  const own = NAMES[base]?.[language === "ja" ? 1 : 0];
  if (own === undefined) return shown(withScript ? `${base}-${script}` : base, language, "language") ?? code;
  return withScript ? `${own} (${shown(script, language, "script") ?? script})` : own;
}

function shown(tag, language, type) {
  try {
    return new Intl.DisplayNames([language], { type, fallback: "none", languageDisplay: "standard" }).of(tag);
  } catch {
    return undefined;
  }
}
