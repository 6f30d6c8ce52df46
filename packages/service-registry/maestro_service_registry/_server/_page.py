"""The dashboard: one static page that reads /v1/maestro/state every two seconds.

It works without any other host, and writes texts from the store as text, never as
markup. With tokens, open it as `/#token=...`; the token stays in the browser.
"""

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>maestro-registry</title>
<meta name="viewport" content="width=device-width,initial-scale=1">
<link rel="icon" href="data:,">
<style>
:root{color-scheme:light dark;--line:#8884;--good:#1a7f37;--warn:#9a6700;--bad:#cf222e}
@media(prefers-color-scheme:dark){:root{--good:#3fb950;--warn:#d29922;--bad:#f85149}}
body{font:14px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1rem}
h1{font-size:1.25rem;margin:0}h2{font-size:1rem;margin:1.6rem 0 .4rem}
header{display:flex;gap:1rem;align-items:baseline;flex-wrap:wrap}
#status{opacity:.75}table{border-collapse:collapse;width:100%}
th,td{text-align:left;padding:.3rem .6rem;border-bottom:1px solid var(--line);vertical-align:top}
th{font-weight:600;opacity:.75}.n{text-align:right;font-variant-numeric:tabular-nums}
.passing{color:var(--good)}.warning,.stale{color:var(--warn)}.critical{color:var(--bad)}
.none{opacity:.6}small{opacity:.75}svg{max-width:100%;height:auto}
svg text{font:12px system-ui,sans-serif;fill:currentColor}
svg rect{fill:Canvas;stroke:currentColor;stroke-opacity:.5}
svg path{stroke:currentColor;stroke-opacity:.45;fill:none}
</style></head><body>
<header><h1>maestro-registry</h1><span id="status" role="status">loading</span></header>
<main>
<section><h2>Services and instances</h2><div id="services"></div></section>
<section><h2>Dependency graph</h2><div id="graph"></div></section>
<section><h2>Locks</h2><div id="locks"></div></section>
<section><h2>Claims and freeze windows</h2><div id="plans"></div></section>
<section><h2>Announcements</h2><div id="announcements"></div></section>
<section><h2>Leases</h2><div id="leases"></div></section>
</main>
<script>
"use strict";
const $=id=>document.getElementById(id);
const token=new URLSearchParams(location.hash.slice(1)).get("token");
function el(name,text,cls){const e=document.createElement(name);
  if(text!==undefined)e.textContent=text;if(cls)e.className=cls;return e}
function table(into,heads,rows,none){into.replaceChildren();
  if(!rows.length){into.append(el("p",none,"none"));return}
  const t=el("table"),h=el("tr");heads.forEach((x,k)=>h.append(el("th",x,rows.some(r=>typeof r[k]==="number")?"n":"")));
  const b=el("tbody");rows.forEach(r=>{const tr=el("tr");
    r.forEach(c=>{const td=el("td");
      if(c instanceof Node)td.append(c);
      else if(typeof c==="number"){td.textContent=c;td.className="n"}
      else td.textContent=c;tr.append(td)});b.append(tr)});
  const head=el("thead");head.append(h);t.append(head,b);into.append(t)}
function health(i){const out=el("span");
  const word=i.status==="up"?i.health:i.status;
  out.append(el("span",(word==="passing"?"\\u25cf ":"\\u25b2 ")+word,i.status==="up"?i.health:"warning"));
  if(i.stale)out.append(el("span"," stale","stale"));
  if(i.output)out.append(el("br"),el("small",i.output.slice(0,200)));return out}
function when(s){return new Date(s*1000).toISOString().replace("T"," ").slice(0,16)+" UTC"}
function draw(g){const box=$("graph");box.replaceChildren();
  if(g.cycle.length){box.append(el("p","circle: "+g.cycle.join(" \\u2192 "),"critical"));return}
  if(!g.edges.length){box.append(el("p","no service requires another","none"));return}
  const ns="http://www.w3.org/2000/svg",W=150,H=30,X=210,Y=46,at={};
  const make=(n,a,text)=>{const e=document.createElementNS(ns,n);
    for(const k in a)e.setAttribute(k,a[k]);if(text)e.textContent=text;return e};
  const rows=Math.max(...g.layers.map(l=>l.length));
  const w=g.layers.length*X-(X-W)+4,h=rows*Y+10;
  const svg=make("svg",{viewBox:`0 0 ${w} ${h}`,width:w,height:h,role:"img"});
  svg.append(make("title",{},"which service requires which"));
  g.layers.forEach((l,x)=>l.forEach((n,y)=>{at[n]=[2+x*X,4+y*Y]}));
  g.edges.forEach(([a,b])=>{const [ax,ay]=at[a],[bx,by]=at[b];
    const x1=ax,y1=ay+H/2,x2=bx+W,y2=by+H/2,m=(x1+x2)/2,far=x1-x2>X?36:0;
    svg.append(make("path",{d:`M${x1},${y1} C${m},${y1+far} ${m},${y2+far} ${x2},${y2}`}))});
  for(const n in at){const [x,y]=at[n];svg.append(make("rect",{x,y,width:W,height:H,rx:5}),
    make("text",{x:x+8,y:y+19},n.length>20?n.slice(0,19)+"\\u2026":n))}
  box.append(svg,el("p",g.edges.map(([a,b,r])=>`${a} requires ${b} ${r.join(", ")}`).join("; ")))}
function show(s){
  const all=Object.entries(s.services).sort((a,b)=>a[0]<b[0]?-1:1);
  const rows=all.flatMap(([n,g])=>g.map((i,k)=>[k?"":n,i.id,i.host+":"+i.port,i.version,
    i.zone||"\\u2013",health(i),i.tags.join(", ")]));
  table($("services"),["Service","Instance","Address","Version","Zone","Health","Tags"],rows,
    "no service is registered");
  draw(s.graph);
  table($("locks"),["Lock","Holder","Fence","Waiting"],s.locks.map(l=>[l.name,l.holder,l.fence,l.waiting]),"no lock is held");
  table($("plans"),["What","Now"],[...s.claims.map(c=>[c,"held"]),
    ...s.windows.map(w=>[w.text,w.active?el("span","in force","warning"):"\\u2013"])],"nothing is claimed or frozen");
  table($("announcements"),["Service","Version","Change","Effective","State","Not acknowledged by"],
    s.announcements.map(a=>[a.service,a.version,(a.breaking?"breaking: ":"")+a.change,when(a.effective),a.state,a.missing.join(", ")||"\\u2013"]),"no change is announced");
  table($("leases"),["Lease","Kind","TTL s","Left s","pid"],s.leases.sort((a,b)=>a.left-b.left).slice(0,200).map(l=>
    [l.id.slice(0,12),l.strict?"lock or session":"instance",l.ttl,l.left,l.pid??"\\u2013"]),"no lease");
  const n=all.reduce((t,[,g])=>t+g.length,0);
  $("status").textContent=`${all.length} services, ${n} instances, ${s.leases.length} leases; ${when(s.now)}`;
  $("status").className=""}
async function tick(){try{
  const r=await fetch("v1/maestro/state",{headers:token?{Authorization:"Bearer "+token}:{}});
  if(!r.ok)throw new Error(await r.text());show(await r.json())}
  catch(e){$("status").textContent="not up to date: "+e.message;$("status").className="critical"}
  setTimeout(tick,2000)}
tick();
</script></body></html>
"""
